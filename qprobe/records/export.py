"""Writes a run as tables for other programs: CSV, or Parquet with the ``export`` extra.

NaN and infinity stay what they are (``nan`` and ``inf`` in CSV, floats in Parquet); what was not
measured has no row. A file appears under its name when it is complete.
"""

import csv
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from qprobe.errors import InputError, MissingExtraError
from qprobe.records.reader import RunReader
from qprobe.records.schema import Finding, Metric, Record, Sample, as_row

# Some rows of a table, as the columns of its header.
Part = Sequence[Sequence[Any] | np.ndarray[Any, Any]]
_ROWS = 2**18  # rows of one Parquet row group and of one look at the run


class Table(StrEnum):
    """A table of a run."""

    RECORDS = "records"
    METRICS = "metrics"
    SAMPLES = "samples"
    FINDINGS = "findings"


class Format(StrEnum):
    """A file format; the value is the suffix of its files."""

    CSV = "csv"
    PARQUET = "parquet"


def export(
    run: RunReader, to: Path, *, table: Table = Table.RECORDS, overwrite: bool = False
) -> list[Path]:
    """Write one table to ``to``, whose suffix, ``.csv`` or ``.parquet``, says how."""
    try:
        form = Format(to.suffix.lower().removeprefix("."))
    except ValueError:
        raise InputError(
            f"{to} has the suffix {to.suffix!r}; name a .csv or .parquet file, or a folder."
        ) from None
    if not to.parent.is_dir():
        raise InputError(f"{to.parent} is not a folder; create it, or choose another place.")
    _refuse_existing([to], overwrite)
    _write(run, table, form, to)
    return [to]


def export_all(
    run: RunReader, to: Path, *, form: Format = Format.CSV, overwrite: bool = False
) -> list[Path]:
    """Write every table, ``arrays.npz`` and ``meta.json`` into the folder ``to``.

    The arrays are named ``step/site/role/probe/key``; ``numpy.load`` reads them one by one.
    """
    if to.exists() and not to.is_dir():
        raise InputError(f"{to} is a file; name a folder, or a file that ends in .csv or .parquet.")
    tables = {to / f"{table}.{form}": table for table in Table}
    arrays, meta = to / "arrays.npz", to / "meta.json"
    _refuse_existing([*tables, arrays, meta], overwrite)
    if form is Format.PARQUET:
        _pyarrow()
    to.mkdir(parents=True, exist_ok=True)
    for path, table in tables.items():
        _write(run, table, form, path)
    with _draft(arrays) as draft:
        _write_arrays(run, draft)
    with _draft(meta) as draft:
        draft.write_text(json.dumps(asdict(run.meta), indent=2) + "\n", encoding="utf-8")
    return [*tables, arrays, meta]


def _write(run: RunReader, table: Table, form: Format, path: Path) -> None:
    writer = _write_csv if form is Format.CSV else _write_parquet
    with _draft(path) as draft:
        writer(draft, _HEADERS[table], _PARTS[table](run))


def _write_csv(path: Path, header: Sequence[str], parts: Iterable[Part]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        for part in parts:
            plain = (
                column.tolist() if isinstance(column, np.ndarray) else column for column in part
            )
            rows.writerows(zip(*plain, strict=True))


def _write_parquet(path: Path, header: Sequence[str], parts: Iterable[Part]) -> None:
    pa, parquet = _pyarrow()
    schema = pa.schema([(name, _arrow_type(pa, name)) for name in header])
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in parts:
            # from_pandas=False: NaN is a value, not a null.
            columns = [
                pa.array(column, type=field.type, from_pandas=False)
                for column, field in zip(part, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _arrow_type(pa: Any, name: str) -> Any:
    if name in ("step", "epoch", "n"):
        return pa.int64()
    return pa.float64() if name in ("value", "effect", "low", "high") else pa.string()


def _write_arrays(run: RunReader, path: Path) -> None:
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for array in run.arrays():
            name = "/".join([str(array.step), *(part or "-" for part in array.column)])
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array.data, allow_pickle=False)


def _record_parts(run: RunReader) -> Iterator[Part]:
    name = run.meta.run
    waiting: list[tuple[Any, Any]] = []
    rows = 0
    for item in run.select():
        waiting.append(item)
        rows += len(item[1])
        if rows >= _ROWS:
            yield _records(name, waiting)
            waiting, rows = [], 0
    if waiting:
        yield _records(name, waiting)


def _records(run: str, items: Sequence[tuple[Any, Any]]) -> Part:
    lengths = [len(series) for _, series in items]
    texts = np.array([column for column, _ in items], dtype=object)
    return [
        [run] * sum(lengths),
        np.concatenate([series.steps for _, series in items]),
        *(np.repeat(texts[:, place], lengths) for place in range(4)),
        np.concatenate([series.values for _, series in items]),
    ]


def _flat_parts(rows: Sequence[tuple[Any, ...]]) -> Iterator[Part]:
    if rows:
        yield list(zip(*rows, strict=True))


def _finding_row(finding: Finding) -> tuple[Any, ...]:
    return tuple(
        " ".join(value) if isinstance(value, tuple) else value
        for value in (getattr(finding, field.name) for field in fields(finding))
    )


_KINDS = {
    Table.RECORDS: Record,
    Table.METRICS: Metric,
    Table.SAMPLES: Sample,
    Table.FINDINGS: Finding,
}
_HEADERS = {table: [field.name for field in fields(kind)] for table, kind in _KINDS.items()}
_PARTS: dict[Table, Callable[[RunReader], Iterator[Part]]] = {
    Table.RECORDS: _record_parts,
    Table.METRICS: lambda run: _flat_parts([as_row(item) for item in run.metrics()]),
    Table.SAMPLES: lambda run: _flat_parts([as_row(item) for item in run.samples()]),
    Table.FINDINGS: lambda run: _flat_parts([_finding_row(f) for f in run.findings()]),
}


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.new")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}; free space or rights."
        ) from (error)
    finally:
        draft.unlink(missing_ok=True)


def _refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already; choose another name, or allow overwriting.")


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            "Parquet needs pyarrow; install it with pip install 'qprobe[export]', or export to CSV."
        ) from error
