"""What weights without anything odd would give: independent normal numbers of the same shape.

NVFP4 and MXFP4 scale block by block, so theirs do not depend on the shape: measured once on 2²²
normal numbers. An integer scale is set by the largest of those who share it, which grows with their
number.
"""

from math import log, log10
from statistics import NormalDist

#: SQNR in dB of normal weights.
BLOCKS_DB = {"nvfp4": 20.43, "nvfp4_2d": 19.06, "nvfp4_rht": 20.43, "mxfp4": 18.85}


def largest_of(n: int) -> float:
    """About how large the largest magnitude of ``n`` standard normal numbers is, its median.

    ``Φ⁻¹((1 + 2^(−1/n)) / 2)``: all ``n`` lie below it with probability one half.

    >>> round(largest_of(1), 3), round(largest_of(4096), 2), round(largest_of(2**20), 2)
    (0.674, 3.76, 4.97)
    """
    below = -log(2.0) / n  # log of the share of one number; kept as a log for large n
    tail = -below / 2 if n > 10**6 else (1 - 2 ** (-1 / n)) / 2
    return -NormalDist().inv_cdf(tail)


def granularity_gain_db(n: int, sharing: int) -> float:
    """What a scale for each ``sharing`` of ``n`` normal weights gains over one for all.

    ``20·log10(largest of n / largest of sharing)``: rounding noise goes with the square of the
    scale, the signal stays.

    >>> round(granularity_gain_db(2**20, 1024), 1)
    3.3
    """
    return 20.0 * log10(largest_of(n) / largest_of(min(sharing, n)))
