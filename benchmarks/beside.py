"""What company costs who works: the same piece of work again and again, while others compute.

A machine that others use too changes its speed by a tenth within seconds: a minute alone and a
minute beside company differ by more than is asked about. So company stays all the time. It computes
now and then, and a piece that it may have held up is compared with pieces of the same kind within
two seconds before and after, beside which it rested.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

#: Seconds before and after a piece in which the machine is taken to be as quick as at it.
NEAR_S = 2.0
#: Company that computed less since the last piece only looked at a clock.
LEAST_S = 20e-6
#: What company threw out of a cache is missed for a while: the next piece may be held up too.
AFTER = 1
#: Seconds of which an interval draws whole stretches: pieces close in time are alike.
_STRETCH_S = 4.0
_DRAWN = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """When each began, how long it took, how long company computed between the last one's end and
    its begin, and a kind: those of one kind would take equally long on a machine at one speed.

    Company during a piece is left out: a piece that others hold up lasts longer, and would find
    more company for that reason alone.
    """

    at_s: Numbers
    taken_s: Numbers
    company_s: Numbers
    kind: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slower:
    """By how much, of the time that the pieces would have taken, with a 95 % interval."""

    share: float
    low: float
    high: float


def held_up(pieces: Pieces) -> NDArray[np.bool_]:
    """Beside which pieces company computed, or beside the one before.

    >>> one = np.ones(4)
    >>> pieces = Pieces(at_s=one, taken_s=one, company_s=np.array([0, 1e-3, 0, 0]), kind=one)
    >>> held_up(pieces).tolist()
    [False, True, True, False]
    """
    busy = pieces.company_s > LEAST_S
    found = busy.copy()
    for later in range(1, AFTER + 1):
        found[later:] |= busy[:-later]
    return found


def slower(pieces: Pieces) -> Slower:
    """How much longer all pieces took because of company.

    A piece is expected to take e = f·l, where f is the median of its kind and l the median of
    taken / f near it, both over pieces that were left alone; a mean is larger than a median, so e
    is scaled to the mean of those. The share is the sum of taken − e over the pieces that company
    may have held up, over the sum of e over all. Its interval draws stretches of time anew.
    """
    touched = held_up(pieces)
    expected = _expected(pieces, ~touched)
    expected *= pieces.taken_s[~touched].sum() / expected[~touched].sum()
    more = np.where(touched, pieces.taken_s - expected, 0.0)
    stretch = ((pieces.at_s - pieces.at_s[0]) // _STRETCH_S).astype(np.int64)
    mores, wholes = np.bincount(stretch, more), np.bincount(stretch, expected)
    drawn = np.random.default_rng(0).integers(0, len(wholes), (_DRAWN, len(wholes)))
    shares = mores[drawn].sum(1) / wholes[drawn].sum(1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return Slower(share=float(mores.sum() / wholes.sum()), low=float(low), high=float(high))


def _expected(pieces: Pieces, alone: NDArray[np.bool_]) -> Numbers:
    """f·l of every piece."""
    usual = np.empty(len(alone))
    for kind in np.unique(pieces.kind):
        same = pieces.kind == kind
        if not (same & alone).any():
            raise ValueError(f"company never rested beside a piece of kind {kind}; watch longer")
        usual[same] = np.median(pieces.taken_s[same & alone])
    at, ratio = pieces.at_s[alone], (pieces.taken_s / usual)[alone]
    # The level changes little within a quarter of that time.
    grid = np.arange(pieces.at_s[0], pieces.at_s[-1] + NEAR_S, NEAR_S / 4)
    first, last = np.searchsorted(at, (grid - NEAR_S, grid + NEAR_S))
    known = np.flatnonzero(
        last > first
    )  # where it never rested the level is between its neighbours
    level = [float(np.median(ratio[first[one] : last[one]])) for one in known.tolist()]
    return np.asarray(usual * np.interp(pieces.at_s, grid[known], level), dtype=np.float64)
