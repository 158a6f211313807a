"""Code that is the caller's own, run so that what it raises is one sentence about that code."""

from collections.abc import Callable
from typing import TypeVar

from qprobe.errors import InputError, QprobeError

T = TypeVar("T")


def tried(what: str, call: Callable[[], T], when: str = "") -> T:
    """What ``call`` returns; what it raises is told by the name of its part, ``what``.

    Errors of ours say what is wrong by themselves and pass. ``when`` follows the error's own words.

    >>> tried("loss of mine", lambda: 1 / 0, "on the first batch")
    Traceback (most recent call last):
    qprobe.errors.InputError: loss of mine raised ZeroDivisionError: ... on the first batch; run ...
    """
    try:
        return call()
    except QprobeError:
        raise
    except (Exception, SystemExit) as error:
        lines = str(error).splitlines()
        told = f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
        said = f"{told}, {when}" if when else told
        raise InputError(f"{what} raised {said}; run it alone to see where.") from error
