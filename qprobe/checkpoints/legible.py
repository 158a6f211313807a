"""Text out of a file that nobody trusts, made fit for a message."""

_LONGEST = 80


def legible(text: object) -> str:
    """``text`` on one line, without control characters and at most 80 characters long.

    >>> legible("layer\\n\\x1b[2J")
    'layer\\\\n\\\\x1b[2J'
    >>> len(legible("a" * 1000))
    80
    """
    cut = str(text)[: _LONGEST + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def first_line(error: BaseException) -> str:
    """What another library says went wrong, as part of a sentence of ours.

    >>> first_line(ValueError("too short.\\nstack: 1 2 3")), first_line(EOFError())
    ('too short', 'EOFError')
    """
    lines = str(error).strip().splitlines()
    return legible(lines[0].rstrip(". ")) if lines else type(error).__name__
