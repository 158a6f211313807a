"""Limits that hold together: for whoever looks at many intervals and tells the odd ones."""

from dataclasses import replace
from math import sqrt

from scipy import stats
from scipy.special import ndtri

from qprobe.errors import InputError
from qprobe.inference.interval import Interval


def of_family(found: Interval, family: int, *, even: bool = False) -> Interval:
    """The interval, widened so that those of a whole family of ``m`` hold the truth together.

    Of 28 intervals of 95 % one misses by chance in most looks. With Bonferroni's share of the level
    for each, all 28 hold in 95 % of them, whatever they have in common::

        w = t_{n−1}(1 − (1 − level)/2m) · √(n/(n−1)) / z((1 + level)/2)
        low = θ̂ − w·(θ̂ − low)      high = θ̂ + w·(high − θ̂)

    A bootstrap of a thousand draws has no thousandth to give, so the far tail is Student's, with
    the spread on each side that the limits tell. A family of one is left as it is.

    ``even`` takes half of the whole length for the shorter side: where a few groups of many make
    all of a difference, a bootstrap moves both limits to one side, and would find what is not
    there. It costs power where groups are skewed for other reasons, and is for what nobody expects.
    ``bias``: conservative where members have much in common; too narrow for skewed groups that are
    few, as any t is (a twentieth becomes a tenth at 40 groups that are drawn exponentially).

    Holm's steps find a little more and have no limits to show. The largest deviation over joint
    draws (max-T) is within a tenth of this for pairs of layers, to either side, and an interrupted
    measurement would have to draw all of them again.

    Reference: Dunn 1961, "Multiple Comparisons Among Means"; Hesterberg 2015, "What Teachers Should
    Know About the Bootstrap", for t and √(n/(n−1)) in place of z.

    >>> one = Interval(estimate=1.0, low=0.4, high=2.0, level=0.95, n=31, method="bca")
    >>> wide = of_family(one, 28)  # w = t_30(0.99911) · √(31/30) / 1.96 = 1.778
    >>> round(wide.low, 3), round(wide.high, 3), wide.method
    (-0.067, 2.778, 'bca, for 28 together')
    >>> round(of_family(one, 28, even=True).low, 3)  # 1 − 1.778 · 0.8
    -0.422
    """
    if family < 1 or found.n < 2:
        raise InputError(
            f"limits for a family take one member or more and at least 2 groups, got {family} "
            f"members of {found.n} groups."
        )
    if family == 1:
        return found
    tail = (1.0 - found.level) / 2
    far = float(stats.t.isf(tail / family, found.n - 1)) * sqrt(found.n / (found.n - 1))
    width = far / -float(ndtri(tail))
    least = (found.high - found.low) / 2 if even else 0.0
    return replace(
        found,
        low=found.estimate - width * max(found.estimate - found.low, least),
        high=found.estimate + width * max(found.high - found.estimate, least),
        method=f"{found.method}, for {family} together",
    )
