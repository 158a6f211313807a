from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from qprobe.cli.export import export_
from qprobe.errors import InputError
from qprobe.records import Column, RunInfo, create

app = typer.Typer()
app.command("export")(export_)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with create(tmp_path / "run.qprobe", RunInfo(config={}, environment={})) as run:
        run.record(0, Column("", "", "train", "loss"), 0.5)
    return tmp_path / "run.qprobe"


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_file_by_its_suffix(path: Path, tmp_path: Path):
    to = tmp_path / "out.csv"
    assert call(path, "--to", to) == f"{to}\n"
    assert to.read_text().splitlines()[1].endswith(",0,,,train,loss,0.5")


def test_another_table(path: Path, tmp_path: Path):
    call(path, "--to", tmp_path / "out.csv", "--table", "metrics")
    assert (tmp_path / "out.csv").read_text() == "step,split,name,value,epoch\n"


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_gets_every_table(path: Path, tmp_path: Path, exists: bool):
    folder = tmp_path / "folder"
    if exists:
        folder.mkdir()
    names = [Path(line).name for line in call(path, "--to", folder).splitlines()]
    assert names == [
        "records.csv", "metrics.csv", "samples.csv", "findings.csv", "arrays.npz", "meta.json",
    ]  # fmt: skip
    with pytest.raises(InputError, match="exists already"):
        call(path, "--to", folder)
    call(path, "--to", folder, "--overwrite")


def test_a_folder_of_parquet(path: Path, tmp_path: Path):
    pytest.importorskip("pyarrow")
    call(path, "--to", tmp_path / "folder", "--format", "parquet")
    assert (tmp_path / "folder" / "records.parquet").read_bytes()[:4] == b"PAR1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "out.csv", "--format", "csv"), "the suffix of .* leave out --format"),
        (("--to", "folder", "--table", "records"), "gets every table; leave out --table"),
        (("--to", "out.txt"), r"suffix '\.txt'"),
    ],
)
def test_options_that_contradict_are_refused(
    path: Path, tmp_path: Path, options: tuple[str, ...], message: str
):
    to = tmp_path / options[1]
    with pytest.raises(InputError, match=message):
        call(path, options[0], to, *options[2:])
    assert not to.exists()


def test_a_missing_run_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="there is no run at"):
        call(tmp_path / "none.qprobe", "--to", tmp_path / "out.csv")
