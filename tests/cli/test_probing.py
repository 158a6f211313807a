import pickle
import re

import pytest

from qprobe import records
from qprobe.cli.main import main
from qprobe.cli.probing import Probing

SMALL = (
    *("--set", "size=tiny", "--set", "image=32", "--set", "batch=8", "--set", "steps=4"),
    *("--set", "device=cpu", "--set", "data_options={patients = 10, slices = 4, image = 32}"),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def probes_of(folder):
    (path,) = folder.rglob("*.qprobe")
    with records.open(path) as run:
        return {column.probe for column, _ in run.select()} - {"training"}


def test_a_training_is_watched_unless_told_and_watch_shows_what_was_seen(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *SMALL, "--quiet", "--budget", "none", "--out", str(out)]) == 0
    assert probes_of(out) >= {"moments", "four_bit", "histogram", "session"}
    assert main(["watch", str(out), "--by", "kurtosis"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"looked at every \d+ steps", said)
    rows = [line.split() for line in said.splitlines() if "output" in line or "weight" in line]
    assert "NVFP4 dB" in said
    assert "kurtosis" in said
    assert len(rows) > 5
    with records.open(out / "run.qprobe") as run:
        costs = run.series("", "", "session", "overhead_percent")
    assert len(costs) == 1


def test_none_and_names(tmp_path):
    none, some = tmp_path / "none", tmp_path / "some"
    assert main(["train", *SMALL, "--quiet", "--probes", "none", "-o", str(none)]) == 0
    assert probes_of(none) == set()
    names = ("--probes", "moments, update_health", "--every", "3", "--budget", "none")
    assert main(["train", *SMALL, "--quiet", *names, "-o", str(some)]) == 0
    assert probes_of(some) == {"moments", "update_health", "session"}
    with records.open(some / "run.qprobe") as run:
        assert run.series("head", "weight", "update_health", "n").steps.tolist() == [4]


def test_cells_of_a_sweep_are_watched_too(tmp_path):
    given = ("--workers", "1", "--probes", "moments", "--quiet")
    assert main(["sweep", *SMALL, *given, "--out", str(tmp_path / "runs")]) == 0
    assert probes_of(tmp_path / "runs") == {"moments", "session"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--probes", "momets"], "no probe called 'momets'; did you mean 'moments'"),
        (["--probes", "moments,moments"], "the probe 'moments' was asked for twice"),
        (["--budget", "2"], "a budget of '2' is no share of a step"),
        (["--every", "0"], "should be greater than or equal to 1"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    command, given, sentence, tmp_path, capsys
):
    assert main([command, *given, "--out", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_choice_reaches_a_worker():
    chosen = Probing.of("default", 5, "1%")
    assert pickle.loads(pickle.dumps(chosen)) == chosen  # noqa: S301  (made here)
    assert chosen.callback().state_dict()["probes"] == "default"
