"""A number with what it rests on."""

from dataclasses import dataclass

from qprobe.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate, its confidence limits, and the number of independent units behind it."""

    estimate: float
    low: float
    high: float
    level: float
    n: int
    method: str

    def excludes(self, value: float) -> bool:
        """Whether ``value`` is outside the limits."""
        return not self.low <= value <= self.high


def check_level(level: float) -> None:
    """A confidence level is a share strictly between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise InputError(f"the confidence level is between 0 and 1 (such as 0.95), got {level}.")
