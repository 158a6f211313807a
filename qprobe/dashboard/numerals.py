"""Numbers as a person reads them: with a sign where it matters, an interval, and never as a zero
that was not measured."""

import math

from qprobe.inference.against_baseline import Mean


def plain(value: float | None) -> str:
    """Four digits, or what it is that is no number.

    >>> [plain(v) for v in (0.123456, 123456.0, float("nan"), float("inf"), None)]
    ['0.1235', '1.235e+05', 'NaN', '+inf', '–']
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+inf" if value > 0 else "−inf"
    return f"{value:.4g}".replace("-", "−", 1) if value < 0 else f"{value:.4g}"


def signed(value: float, digits: int = 3) -> str:
    """With its sign, which is a minus and no hyphen.

    >>> signed(-0.0142), signed(0.5, 1)
    ('−0.014', '+0.5')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def interval(value: Mean, *, sign: bool = False) -> str:
    """The estimate and its limits, with two digits of the interval's half width.

    >>> interval(Mean(estimate=-0.014, low=-0.02, high=-0.008, n=3), sign=True)
    '−0.0140 [−0.0200, −0.0080]'
    >>> interval(Mean(estimate=0.5, low=None, high=None, n=1))
    '0.5000'
    """
    digits = _digits(value)

    def one(number: float) -> str:
        return f"{number:{'+' if sign else ''}.{digits}f}".replace("-", "−")

    if value.low is None or value.high is None:
        return one(value.estimate)
    return f"{one(value.estimate)} [{one(value.low)}, {one(value.high)}]"


def _digits(value: Mean) -> int:
    if value.low is None or value.high is None or value.high <= value.low:
        return 4
    return min(8, max(3, 1 - math.floor(math.log10((value.high - value.low) / 2))))


def short(name: str, longest: int = 48) -> str:
    """A long name by its two ends.

    >>> short("a" * 30 + "b" * 30, 11)
    'aaaaa…bbbbb'
    """
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
