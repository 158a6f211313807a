"""Whether a number reproduces a claim or refutes it: rules that are fixed before it is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from number import Number

from qprobe.errors import InputError


class Verdict(StrEnum):
    """What the data say about a claim at one scale."""

    REPRODUCED = "reproduced"
    REFUTED = "refuted here"
    OPEN = "not established here"
    UNTESTABLE = "not testable here"
    NOT_RUN = "not run"


class Kind(StrEnum):
    """What a claim says of its numbers."""

    ABOVE = "above"
    BELOW = "below"
    WITHIN = "within"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a claim is decided, on the whole interval of every number it names.

    ``above``: reproduced where all of the interval is above ``than``, refuted where all of it is
    below ``than + margin``; ``margin`` is the least effect that would matter. ``below`` is its
    mirror image. ``within``: reproduced where all of the interval is from ``low`` to ``high``,
    refuted where none of it is. Whatever else there is leaves the claim open.
    """

    kind: Kind
    than: float = 0.0
    margin: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise InputError(f"margin is at least 0, got {self.margin}.")
        if self.kind is Kind.WITHIN and not self.low < self.high:
            raise InputError(f"within needs low < high, got {self.low} and {self.high}.")

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Rule":
        """From a table of TOML."""
        allowed = {
            "above": {"than", "margin"},
            "below": {"than", "margin"},
            "within": {"low", "high"},
        }
        kind = given.get("kind")
        if kind not in allowed:
            raise InputError(f"kind is one of {', '.join(allowed)}, got {kind!r}.")
        unknown = given.keys() - allowed[kind] - {"kind"}
        if unknown:
            raise InputError(f"a rule of kind {kind!r} takes no {min(unknown)!r}.")
        return cls(kind=Kind(kind), **{k: float(v) for k, v in given.items() if k != "kind"})

    def of(self, number: Number) -> Verdict:
        """The verdict of one number.

        >>> rule = Rule(kind=Kind.ABOVE, than=0.0, margin=0.01)
        >>> cases = [(0.01, 0.03), (-0.02, 0.005), (-0.01, 0.03)]
        >>> [rule.of(Number(estimate=a, low=a, high=b, n=5)).value for a, b in cases]
        ['reproduced', 'refuted here', 'not established here']
        """
        if self.kind is Kind.WITHIN:
            holds = self.low <= number.low and number.high <= self.high
            fails = number.high < self.low or number.low > self.high
        elif self.kind is Kind.ABOVE:
            holds = number.low > self.than
            fails = number.high < self.than + self.margin
        else:
            holds = number.high < self.than
            fails = number.low > self.than - self.margin
        # With a margin both may hold: an effect that is there and too small to matter.
        if fails:
            return Verdict.REFUTED
        return Verdict.REPRODUCED if holds else Verdict.OPEN

    def words(self) -> str:
        """What has to hold, in words."""
        if self.kind is Kind.WITHIN:
            return f"interval inside {self.low:g} to {self.high:g}"
        edge = f"interval {self.kind.value} {self.than:g}"
        return f"{edge}, at least {self.margin:g} would matter" if self.margin else edge


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim about several numbers: all have to hold, and one that fails refutes it."""
    if not verdicts:
        return Verdict.NOT_RUN
    for one in (Verdict.REFUTED, Verdict.NOT_RUN, Verdict.OPEN):
        if one in verdicts:
            return one
    return verdicts[0]
