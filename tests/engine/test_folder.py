import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from run_contents import differences, measured, weights

from qprobe import records
from qprobe.engine import Callback, TrainConfig, Training, checkpoint, folder, train
from qprobe.errors import InputError
from qprobe.records import Status

# A child that trains, slowly enough to be killed in every state.
TRAIN = """
import json, os, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from qprobe.engine import Callback, TrainConfig, train

class Slow(Callback):
    def step(self, training):
        print(training.step, flush=True)
        if training.step == int(sys.argv[3]):
            os.kill(os.getpid(), 9)
        time.sleep(0.01)

config = TrainConfig.of(json.loads(sys.argv[1]))
train(config, Path(sys.argv[2]), callbacks=[Slow()], resume=True)
"""


class StopAt(Callback):
    """An exception after a step, as good as a crash."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, training: Training) -> None:
        if training.step == self.at:
            raise KeyboardInterrupt


def child(config: TrainConfig, place: Path, dies_at: int = 0) -> subprocess.Popen[str]:
    text = json.dumps(config.as_json())
    command = [sys.executable, "-c", TRAIN, text, str(place), str(dies_at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill(config: TrainConfig, place: Path, after_step: int, after_s: float) -> None:
    """Let a child train past a step, and kill it a moment later."""
    with child(config, place) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= after_step:
                break
        time.sleep(after_s)
        process.kill()


def survive(config: TrainConfig, tmp_path: Path, kills: int, seed: int) -> None:
    moments = random.Random(seed)  # noqa: S311  (moments to kill at, no secret)
    total = train(config, tmp_path / "whole").steps
    # After the save of step 3, before the second in which steps are gathered is over.
    child(config, tmp_path / "parts", dies_at=4).communicate()
    assert weights(tmp_path / "parts")["step"] == 3
    assert measured(tmp_path / "parts")["series"]["loss"][0].tolist() == [1, 2, 3]
    for number in range(kills):
        step = 5 + (total - 6) * number // kills
        kill(config, tmp_path / "parts", step, moments.uniform(0, 0.05))
        with records.open(tmp_path / "parts" / "run.qprobe") as run:
            assert run.meta.status is Status.INTERRUPTED
    train(config, tmp_path / "parts", resume=True)
    assert differences(tmp_path / "whole", tmp_path / "parts") == []
    names = {path.name for path in (tmp_path / "parts").iterdir()}
    assert names == {"run.qprobe", "last.pt", "best.pt"}


def test_killed_twice_a_training_ends_as_if_it_never_was(small, tmp_path):
    config = small(arch="cnn", recipe="nvfp4-2d-rht-sr", epochs=6, checkpoint_every=3)
    survive(config, tmp_path, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_ten_times_a_training_ends_as_if_it_never_was(seed, small, tmp_path):
    config = small(arch="cnn", recipe="nvfp4-2d-rht-sr", epochs=12, checkpoint_every=3)
    survive(config, tmp_path, kills=10, seed=seed)


@pytest.mark.parametrize("saved", ["last.pt", "best.pt"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_death_around_a_save_loses_nothing(saved, when, small, tmp_path, monkeypatch):
    """Between the flush of the run file, best.pt and last.pt at the end of the second epoch."""
    config = small(arch="cnn", epochs=3)
    train(config, tmp_path / "whole")
    real, count = checkpoint.save, 0

    def dying(path, content):
        nonlocal count
        count += path.name == saved and content["step"] >= 8
        if count == 1 and path.name == saved and when == "before":
            raise KeyboardInterrupt
        real(path, content)
        if count == 1 and path.name == saved:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", dying)
    if saved == "best.pt":
        monkeypatch.setattr("qprobe.engine.loop._score", lambda *_: float(time.monotonic()))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts")
    monkeypatch.undo()
    if saved == "last.pt":
        train(config, tmp_path / "parts", resume=True)
        assert differences(tmp_path / "whole", tmp_path / "parts") == []
    else:
        result = train(config, tmp_path / "parts", resume=True)
        steps = measured(tmp_path / "parts")["series"]["loss"][0].tolist()
        assert (result.status, steps) == ("finished", list(range(1, 13)))


def test_a_death_before_the_test_was_written_only_repeats_the_test(small, tmp_path, monkeypatch):
    config = small(arch="cnn", epochs=2)
    train(config, tmp_path / "whole")

    def dying(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("qprobe.engine.loop.test_results", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts")
    assert weights(tmp_path / "parts")["counters"]["over"] is True
    monkeypatch.undo()
    train(config, tmp_path / "parts", resume=True)
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_a_death_before_the_first_save_starts_again(small, tmp_path, monkeypatch):
    config = small(arch="cnn", epochs=1)

    def dying(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts")
    monkeypatch.undo()
    assert not (tmp_path / "parts" / "last.pt").exists()
    train(config, tmp_path / "parts", resume=True)
    train(config, tmp_path / "whole")
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_a_folder_with_a_training_is_not_written_over(small, tmp_path):
    train(small(steps=1), tmp_path / "run")
    with pytest.raises(InputError, match="holds a training already; resume it"):
        train(small(steps=1), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": 0.5}, "lr = 0.0005, not 0.5"),
        ({"recipe": "nvfp4"}, "recipe = 'bf16', not 'nvfp4'"),
        ({"model": {"dropout": 0.1}}, "model = {}, not {'dropout': 0.1}"),
        ({"schedule": "cosine"}, "schedule = 'plateau', not 'cosine'"),
        ({"fold": 0}, "fold = None, not 0"),
    ],
)
def test_a_training_is_resumed_with_its_own_settings_only(change, named, small, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(small(steps=3), tmp_path / "run", callbacks=[StopAt(2)])
    with pytest.raises(InputError) as refusal:
        train(small(steps=3, **change), tmp_path / "run", resume=True)
    assert named in str(refusal.value)


def test_a_file_is_no_folder(small, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        train(small(), tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_refused(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made: Not a directory; choose another"):
        train(small(), tmp_path / "file" / "run")


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("left", ["last.pt", "best.pt"])
def test_checkpoints_without_their_run_are_not_taken_for_a_start(left, resume, small, tmp_path):
    train(small(steps=1), tmp_path / "run")
    for name in {"run.qprobe", "last.pt", "best.pt"} - {left}:
        (tmp_path / "run" / name).unlink()
    with pytest.raises(InputError, match=f"holds a {left} without its run.qprobe"):
        train(small(steps=1), tmp_path / "run", resume=resume)


def test_a_run_without_its_checkpoint_is_not_started_over(small, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(small(steps=3), tmp_path / "run", callbacks=[StopAt(2)])
    (tmp_path / "run" / "last.pt").unlink()
    before = measured(tmp_path / "run")["series"]["loss"][0].tolist()
    with pytest.raises(InputError, match=r"has lost its last.pt and cannot go on"):
        train(small(steps=3), tmp_path / "run", resume=True)
    assert measured(tmp_path / "run")["series"]["loss"][0].tolist() == before


def test_the_checkpoint_of_another_training_is_refused_before_the_run_is_touched(small, tmp_path):
    for seed in (0, 1):
        config = small(steps=9, epochs=9, seed=seed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / str(seed), callbacks=[StopAt(6)])
    shutil.copy(tmp_path / "1" / "last.pt", tmp_path / "0" / "last.pt")
    with pytest.raises(InputError, match="is of a training with other settings"):
        train(small(steps=9, epochs=9), tmp_path / "0", resume=True)
    assert len(measured(tmp_path / "0")["series"]["loss"][0]) == 6


def test_another_number_of_threads_is_said(small, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        train(small(steps=3), tmp_path / "run", callbacks=[StopAt(2)])
    torch.set_num_threads(2)
    try:
        with caplog.at_level(logging.WARNING):
            train(small(steps=3), tmp_path / "run", resume=True)
    finally:
        torch.set_num_threads(1)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'run'} was started with threads 1 and goes on with 2: it may differ in the "
        "last bits"
    ]


def test_a_training_is_in_one_process_at_a_time(small, tmp_path):
    class Again(Callback):
        def step(self, training: Training) -> None:
            with pytest.raises(InputError, match=f"being written by process {os.getpid()}"):
                train(small(steps=2), tmp_path / "run", resume=True)

    assert train(small(steps=2), tmp_path / "run", callbacks=[Again()]).status == "finished"


def test_the_folder_names_its_files():
    assert (folder.RUN, folder.LAST, folder.BEST) == ("run.qprobe", "last.pt", "best.pt")


class Remembering(Callback):
    """Counts steps over interruptions."""

    def __init__(self, stop: int | None = None, name: str = "remembering") -> None:
        self.counted, self.stop, self._name = torch.zeros((), dtype=torch.int64), stop, name
        self.seen: list[str] = []

    @property
    def name(self) -> str:
        return self._name

    def state_dict(self) -> dict[str, object]:
        return {"counted": self.counted.clone()}

    def load_state_dict(self, state) -> None:
        self.counted = state["counted"]
        self.seen.append("loaded")

    def begin(self, training: Training) -> None:
        self.seen.append("begun")

    def step(self, training: Training) -> None:
        self.counted += 1
        if training.step == self.stop:
            raise KeyboardInterrupt


def test_a_callback_takes_up_what_it_remembered_where_the_training_was_saved(small, tmp_path):
    config = small(steps=6, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", callbacks=[Remembering(stop=5)])
    again = Remembering()
    train(config, tmp_path / "run", callbacks=[again], resume=True)
    assert again.counted == 6  # the fifth step was not saved, and is counted once
    assert again.seen == ["loaded", "begun"]


def test_two_states_of_one_name_are_refused(small, tmp_path):
    with pytest.raises(InputError, match="two callbacks called 'remembering' have a state"):
        train(small(steps=2), tmp_path / "run", callbacks=[Remembering(), Remembering()])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", None),
        ("model", {}),
        ("step", "seven"),
        ("optimizer", {"state": {}, "param_groups": []}),
        ("counters", {}),
        ("rng", torch.zeros(3)),
        ("loader", None),
    ],
)
def test_a_state_that_does_not_fit_is_told_by_its_file(key, value, small, tmp_path):
    config, place = small(steps=4, epochs=2), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, place, callbacks=[StopAt(3)])
    state = dict(checkpoint.load(place / "last.pt"))
    if key == "model" and value is None:
        value = {name: torch.zeros(2, 3) for name in state["model"]}
    checkpoint.save(place / "last.pt", state | {key: value})
    with pytest.raises(InputError, match=r"last\.pt is not what this training wrote \(.+\); put"):
        train(config, place, resume=True)
    checkpoint.save(place / "last.pt", state)  # nothing is lost by the attempt
    assert train(config, place, resume=True).status is Status.FINISHED


def test_best_weights_of_another_model_are_told(small, tmp_path):
    place = tmp_path / "run"

    class Swap(Callback):
        def epoch(self, training, scores):
            if (place / "best.pt").exists():
                state = dict(checkpoint.load(place / "best.pt"))
                checkpoint.save(place / "best.pt", state | {"model": {"a": torch.zeros(1)}})

    with pytest.raises(InputError, match=r"best\.pt is not what this training wrote"):
        train(small(steps=4, epochs=2), place, callbacks=[Swap()])
