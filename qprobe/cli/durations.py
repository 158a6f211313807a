"""Durations as people say them."""


def spoken(seconds: float) -> str:
    """About three digits, in the largest fitting unit.

    >>> [spoken(s) for s in (0.25, 42, 100, 9000, 400000)]
    ['0.25 s', '42 s', '1 min 40 s', '2 h 30 min', '4 d 15 h']
    """
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
