"""A number with its interval, as stages compute it from stored results and claims are judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qprobe.errors import InputError
from qprobe.inference import Interval, mean_interval

#: Values of cells by stage and key, as they were measured.
Stored = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Number:
    """An estimate with limits, ``n`` independent units behind it; without limits it is exact."""

    estimate: float
    low: float
    high: float
    n: int
    unit: str = ""
    level: float = 0.95

    def __post_init__(self) -> None:
        if not self.low <= self.estimate <= self.high:
            raise InputError(
                f"a number lies between its limits, got {self.low} ≤ {self.estimate} ≤ {self.high}."
            )

    @classmethod
    def of(cls, found: Interval, unit: str = "") -> "Number":
        """From an interval; limits of a bootstrap are widened to hold the estimate."""
        return cls(
            estimate=found.estimate,
            low=min(found.low, found.estimate),
            high=max(found.high, found.estimate),
            n=found.n,
            unit=unit,
            level=found.level,
        )

    @classmethod
    def exact(cls, value: float, n: int, unit: str = "") -> "Number":
        """Counted or computed, not sampled."""
        return cls(estimate=value, low=value, high=value, n=n, unit=unit, level=1.0)

    def shown(self) -> str:
        """As a table has it.

        >>> Number(estimate=-0.0123, low=-0.02, high=0.001, n=5, unit=" AUPRC").shown()
        '−0.012 [−0.02, 0.001] AUPRC, n 5'
        """
        estimate = digits(self.estimate)
        if self.low == self.high:
            return f"{estimate}{self.unit}, n {self.n}"
        limits = f"[{digits(self.low)}, {digits(self.high)}]"
        return f"{estimate} {limits}{self.unit}, n {self.n}"


def digits(value: float) -> str:
    """Three decimals, fewer of what is large, two digits of what is small; a true minus sign.

    >>> digits(0.12345), digits(-37.123), digits(1234.5), digits(0.0), digits(0.000472)
    ('0.123', '−37.1', '1234', '0.000', '0.00047')
    """
    size = abs(value)
    if 0 < size < 0.0995:
        return f"{value:.2g}".replace("-", "−")
    places = 3 if size < 10 else 1 if size < 1000 else 0
    return f"{value:.{places}f}".replace("-", "−")


def mean(values: Sequence[float], unit: str = "", level: float = 0.95) -> Number | None:
    """The mean of independent values with its t interval; None below two of them."""
    if len(values) < 2:
        return None
    return Number.of(mean_interval(values, level), unit)


def present(numbers: Mapping[str, Number | None]) -> dict[str, Number]:
    """Those that could be computed."""
    return {name: number for name, number in numbers.items() if number is not None}
