"""The regular expressions that people type."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which names a pattern keeps; a pattern that is none keeps all and says why."""

    expression: re.Pattern[str] | None = None
    problem: str = ""

    def keeps(self, name: str) -> bool:
        return self.expression is None or self.expression.search(name) is not None

    def of(self, names: Sequence[str]) -> list[str]:
        """The names that it keeps, in their order."""
        return [name for name in names if self.keeps(name)]


def compiled(pattern: str | None) -> Filter:
    """A filter for names that contain what the pattern describes, whatever the case.

    >>> compiled("blocks.[01].qkv").of(["blocks.0.qkv", "blocks.7.qkv"])
    ['blocks.0.qkv']
    >>> compiled("(").problem
    'no regular expression: missing ), unterminated subpattern at position 0'
    """
    text = pattern or ""
    if len(text) > LONGEST:
        return Filter(problem=f"longer than {LONGEST} characters")
    try:
        found = re.compile(text, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        return Filter(problem=f"no regular expression: {error}")
    return Filter(expression=found)
