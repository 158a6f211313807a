"""Names as patterns of ``fnmatch``."""

import re

_SPECIAL = re.compile(r"[*?[]")


def literal(name: str) -> str:
    """A pattern that matches ``name`` and nothing else.

    >>> literal("blocks[0].w*")
    'blocks[[]0].w[*]'
    """
    return _SPECIAL.sub(lambda found: f"[{found[0]}]", name)
