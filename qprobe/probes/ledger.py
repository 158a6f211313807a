"""Where the numbers of a session go: a run file, the memory, and whoever else wants them."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from qprobe.records import Array, Batch, Column, Record, RunWriter, Status

#: Records that a session without a file keeps: the latest ones.
KEPT: Final = 200_000

#: Told of every number: tag, value, step. TensorBoard's ``writer.add_scalar`` is one. If it has a
#: method ``flush``, that is called when a look is complete.
Sink = Callable[[str, float, int], object]


class Ledger:
    """Files numbers.

    Columns of one probe form a layout of the run file, which grows when a key is seen first.
    """

    def __init__(self, writer: RunWriter | None, *, owned: bool, sinks: Sequence[Sink]) -> None:
        self._writer = writer
        self._owned = owned
        self._sinks = tuple(sinks)
        self._columns: dict[str, dict[Column, int]] = {}
        self._records: deque[tuple[int, Column, float]] = deque(maxlen=KEPT)
        self._arrays: dict[Column, Array] = {}

    @property
    def records(self) -> list[Record]:
        """The latest records, where there is no file."""
        return [Record("", step, *column, value) for step, column, value in self._records]

    @property
    def arrays(self) -> list[Array]:
        """The latest array of each column, where there is no file."""
        return list(self._arrays.values())

    def scalars(self, step: int, values: Mapping[Column, float]) -> None:
        """What one look of one probe found."""
        if not values:
            return
        if self._writer is None:
            self._records.extend((step, column, value) for column, value in values.items())
        else:
            probe = next(iter(values)).probe
            known = self._columns.setdefault(probe, {})
            for column in values:
                known.setdefault(column, len(known))
            layout = self._writer.layout(list(known))
            row = np.zeros(len(known))
            present = np.zeros(len(known), dtype=np.bool_)
            places = [known[column] for column in values]
            row[places] = list(values.values())
            present[places] = True
            self._writer.records(step, Batch(layout=layout, values=row, present=present))
        for sink in self._sinks:
            for column, value in values.items():
                sink(tag(column), value, step)

    def scalar(self, step: int, column: Column, value: float) -> None:
        """One number of every step, such as the loss."""
        if self._writer is None:
            self._records.append((step, column, value))
        else:
            self._writer.record(step, column, value)
        for sink in self._sinks:
            sink(tag(column), value, step)

    def keep(self, arrays: Sequence[Array]) -> None:
        """Histograms and maps."""
        if self._writer is None:
            self._arrays.update((array.column, array) for array in arrays)
        else:
            self._writer.arrays(arrays)

    def flush(self) -> None:
        """Have it written, if the file is ours; sinks may do the same."""
        self._flush_sinks()
        if self._writer is not None and self._owned:
            self._writer.flush()

    def close(self, status: Status, reason: str | None) -> None:
        """Let go of the file, if it is ours."""
        self._flush_sinks()
        if self._writer is not None and self._owned:
            self._writer.close(status, reason)

    def _flush_sinks(self) -> None:
        for sink in self._sinks:
            flush = getattr(sink, "flush", None)
            if flush is not None:
                flush()


def tag(column: Column) -> str:
    """What a column is called elsewhere.

    >>> tag(Column("blocks.0.fc1", "input", "moments", "kurtosis"))
    'moments/blocks.0.fc1/input/kurtosis'
    >>> tag(Column("", "", "session", "interval"))
    'session/interval'
    """
    return "/".join(part for part in (column.probe, column.site, column.role, column.key) if part)
