import csv
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sample_runs import INFO, columns, finding

import qprobe
from qprobe.errors import InputError, MissingExtraError
from qprobe.records import Array, Batch, Column, Metric, RunReader, Sample, create, export
from qprobe.records.export import Format, Table, export_all

ODD = [math.nan, math.inf, -math.inf, 0.1]


@pytest.fixture
def reader(path: Path) -> Iterator[RunReader]:
    with create(path, INFO) as run:
        layout = run.layout(columns(5))
        there = np.array([True, True, True, True, False])
        for step in range(70):
            run.records(step, Batch(layout=layout, values=np.array([*ODD, 5.0]), present=there))
        run.record(3, Column("", "", "train", 'a "quoted", key'), 0.5)
        run.metrics([Metric(step=1, split="val", name="dice", value=math.nan)])
        where = {"epoch": 2, "split": "val", "sample": "s", "patient": "p"}
        run.samples([Sample(step=1, name="dice", value=1 / 3, **where)])
        run.findings([finding(sites=("a", "b"))])
        run.arrays(
            [
                Array(step=s, site="a/b", role="", probe="h", key="x", data=np.arange(3) + s)
                for s in (1, 2)
            ]
        )
    with qprobe.open(path) as opened:
        yield opened


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("group", [1, 100, 2**18])
def test_records_as_csv(
    reader: RunReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
):
    monkeypatch.setattr("qprobe.records.export._ROWS", group)
    to = tmp_path / "out.csv"
    assert export.export(reader, to) == [to]
    found = rows(to)
    assert len(found) == 70 * 4 + 1  # the fifth column was never measured
    for row, record in zip(found, reader.records(), strict=True):
        assert (row["run"], int(row["step"])) == (record.run, record.step)
        assert (row["site"], row["role"], row["probe"], row["key"]) == tuple(record.column)
        assert repr(float(row["value"])) == repr(record.value)
    assert {row["value"] for row in found[:280]} == {"nan", "inf", "-inf", "0.1"}


@pytest.mark.parametrize(
    ("table", "value", "text"),
    [
        (Table.METRICS, "value", "nan"),
        (Table.METRICS, "epoch", ""),
        (Table.SAMPLES, "value", repr(1 / 3)),
        (Table.SAMPLES, "patient", "p"),
        (Table.FINDINGS, "sites", "a b"),
        (Table.FINDINGS, "cause", "channel_outlier"),
    ],
)
def test_other_tables_as_csv(
    reader: RunReader, tmp_path: Path, table: Table, value: str, text: str
):
    export.export(reader, tmp_path / "out.csv", table=table)
    (row,) = rows(tmp_path / "out.csv")
    assert row[value] == text


def test_an_empty_table_has_its_header(path: Path, tmp_path: Path):
    create(path, INFO).close()
    with qprobe.open(path) as reader:
        for table in Table:
            export.export(reader, tmp_path / f"{table}.csv", table=table)
            assert rows(tmp_path / f"{table}.csv") == []
            assert "value" in (tmp_path / f"{table}.csv").read_text() or table is Table.FINDINGS


@pytest.mark.parametrize("group", [1, 2**18])
def test_parquet_holds_the_same(
    reader: RunReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("qprobe.records.export._ROWS", group)
    export.export(reader, tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert [str(field.type) for field in table.schema] == [
        "string", "int64", "string", "string", "string", "string", "double",
    ]  # fmt: skip
    assert table.column("value").null_count == 0  # NaN is a value
    for row, record in zip(table.to_pylist(), reader.records(), strict=True):
        expected = (record.run, record.step, *record.column, record.value)
        assert repr(tuple(row.values())) == repr(expected)
    for name in (Table.METRICS, Table.SAMPLES, Table.FINDINGS):
        export.export(reader, tmp_path / f"{name}.parquet", table=name)
        assert parquet.read_table(tmp_path / f"{name}.parquet").num_rows == 1
    assert parquet.read_table(tmp_path / "metrics.parquet").column("epoch").null_count == 1


def test_a_folder_gets_everything(reader: RunReader, tmp_path: Path):
    folder = tmp_path / "new" / "folder"
    written = export_all(reader, folder)
    assert sorted(written) == sorted(folder.iterdir())
    assert len(rows(folder / "records.csv")) == 281
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"1/a/b/-/h/x", "2/a/b/-/h/x"}
        assert arrays["2/a/b/-/h/x"].tolist() == [2, 3, 4]
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["config"], meta["status"]) == (dict(INFO.config), "finished")


def test_nothing_is_overwritten_unasked(reader: RunReader, tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("mine")
    for call in (
        lambda **more: export.export(reader, tmp_path / "metrics.csv", table=Table.METRICS, **more),
        lambda **more: export_all(reader, tmp_path, **more),
    ):
        (tmp_path / "metrics.csv").write_text("mine")
        with pytest.raises(InputError, match=r"metrics\.csv exists already"):
            call()
        assert (tmp_path / "metrics.csv").read_text() == "mine"
        call(overwrite=True)
        assert len(rows(tmp_path / "metrics.csv")) == 1


def test_a_failed_export_leaves_nothing(
    reader: RunReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reader.close()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Exception, match="closed"):
        export.export(reader, tmp_path / "out.csv")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.xlsx", r"suffix '\.xlsx'; name a \.csv or \.parquet"),
        ("out", "suffix ''"),
        ("none/out.csv", "none is not a folder"),
    ],
)
def test_a_place_that_cannot_be_used_is_named(
    reader: RunReader, tmp_path: Path, name: str, message: str
):
    with pytest.raises(InputError, match=message):
        export.export(reader, tmp_path / name)


def test_a_file_is_no_folder(reader: RunReader, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a folder"):
        export_all(reader, tmp_path / "file")


def test_without_pyarrow_the_extra_is_named(
    reader: RunReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"qprobe\[export\]"):
        export.export(reader, tmp_path / "out.parquet")
    with pytest.raises(MissingExtraError, match=r"qprobe\[export\]"):
        export_all(reader, tmp_path / "folder", form=Format.PARQUET)
    assert not (tmp_path / "folder").exists()
    assert not (tmp_path / "out.parquet").exists()
