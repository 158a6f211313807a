"""Fusions that a loop makes over and over, as a scan makes them for every token."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from qprobe.sites.calls import Call

#: So often in one pass a fusion is told from others like it. A model that shares one layer among
#: all its depths has twelve of them, or sixteen; sequences have no such bound.
TOLD_APART: Final = 16


class Repeats:
    """Counts fusions that are alike: of one operation in one module, and of the same producers.

    A producer that is itself a fusion is taken without its number, which grows from turn to turn.
    Residuals around layers of their own are not alike, however many there are.

    >>> repeats = Repeats()
    >>> turns = [[("scan",), (f"scan/add.{turn}",)] for turn in range(TOLD_APART + 3)]
    >>> [repeats.beyond(Call("scan", "mul", 0), one) for one in turns].count(True)
    3
    >>> dict(repeats.left_out)
    {'scan/mul': 3}
    """

    def __init__(self) -> None:
        self._alike: Counter[tuple[str, str, tuple[frozenset[str], ...]]] = Counter()
        #: How many were too many, by module and operation.
        self.left_out: Counter[str] = Counter()

    def beyond(self, call: Call, producers: Iterable[Iterable[str]]) -> bool:
        """Whether ``call``, whose branches these have made, is one too many."""
        alike = call.path, call.operation, tuple(map(_unnumbered, producers))
        self._alike[alike] += 1
        if self._alike[alike] <= TOLD_APART:
            return False
        self._leave_out(call)
        return True

    def among(self, call: Call, producers: Iterable[Iterable[str]]) -> list[int]:
        """Which branches of one fusion are told apart: of those that are alike, the first.

        >>> repeats = Repeats()
        >>> len(repeats.among(Call("scan", "cat", 0), [(f"scan/add.{at}",) for at in range(50)]))
        16
        >>> dict(repeats.left_out)
        {'scan/cat': 34}
        """
        alike: Counter[frozenset[str]] = Counter()
        told = []
        for at, made in enumerate(map(_unnumbered, producers)):
            alike[made] += 1
            if alike[made] <= TOLD_APART:
                told.append(at)
            else:
                self._leave_out(call)
        return told

    def _leave_out(self, call: Call) -> None:
        self.left_out[str(call).rpartition(".")[0]] += 1


def _unnumbered(producers: Iterable[str]) -> frozenset[str]:
    """Modules by their paths, calls without their numbers."""
    split = (one.rpartition("/") for one in producers)
    return frozenset(
        f"{path}{slash}{last.partition('.')[0] if slash else last}" for path, slash, last in split
    )
