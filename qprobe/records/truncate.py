"""Takes back what was recorded after a step, so that a resumed run has every step once."""

import sqlite3

import numpy as np
from numpy.typing import NDArray

from qprobe.records.blobs import Packed, pack, pack_steps, unpack, unpack_steps


def truncate(connection: sqlite3.Connection, after_step: int) -> None:
    """Delete everything of a step later than ``after_step``, in one transaction."""
    run = connection.execute
    run("BEGIN IMMEDIATE")
    try:
        for table in ("live", "point", "array", "metrics", "score"):
            run(f"DELETE FROM {table} WHERE step > ?", (after_step,))  # noqa: S608 - names of ours
        run(
            "DELETE FROM chunk WHERE span IN (SELECT id FROM span WHERE first_step > ?)",
            (after_step,),
        )
        run("DELETE FROM span WHERE first_step > ?", (after_step,))
        cut = run("SELECT id, steps FROM span WHERE last_step > ?", (after_step,)).fetchall()
        for span, steps in cut:
            _shorten(connection, span, unpack_steps(steps), after_step)
        run("COMMIT")
    except BaseException:
        if connection.in_transaction:
            run("ROLLBACK")
        raise


def _shorten(
    connection: sqlite3.Connection, span: int, steps: NDArray[np.int64], last: int
) -> None:
    kept = int(np.searchsorted(steps, last, side="right"))
    connection.execute(
        "UPDATE span SET last_step = ?, steps = ? WHERE id = ?",
        (int(steps[kept - 1]), pack_steps(steps[:kept]), span),
    )
    chunks = connection.execute(
        "SELECT id, dtype, present, data FROM chunk WHERE span = ?", (span,)
    ).fetchall()
    for chunk, *packed in chunks:
        values, present = unpack(Packed(*packed))
        there = None if present is None else present.reshape(-1, len(steps))[:, :kept]
        shorter = pack(values.reshape(-1, len(steps))[:, :kept], there)
        connection.execute(
            "UPDATE chunk SET dtype = ?, present = ?, data = ? WHERE id = ?", (*shorter, chunk)
        )
