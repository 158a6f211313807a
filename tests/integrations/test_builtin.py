"""Probes in a training of the engine: they change nothing, and are taken up where they were."""

import os
import signal
import warnings
from itertools import islice

import numpy as np
import pytest
import torch
from run_contents import differences, same

from qprobe import records
from qprobe.engine import Callback, checkpoint, train
from qprobe.engine.workbench import prepare
from qprobe.errors import InputError
from qprobe.integrations.builtin import ProbeCallback
from qprobe.probes.base import PROBES
from qprobe.probes.moments import Moments
from qprobe.records import Status

#: Numbers of a session that are times, and differ from run to run.
TIMES = {"seconds", "step_s", "overhead_percent"}


class InterruptAt(Callback):
    """Ctrl-C while a step is running."""

    def __init__(self, step):
        self.at = step

    def step(self, training):
        if training.step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Let dear probes look as often as the others."""
    for probe in PROBES:
        monkeypatch.setattr(probe, "every", 1, raising=False)


def probing(probes="default", every=2):
    return ProbeCallback(probes, every=every, budget="none")


def seen(folder):
    """All that probes have recorded, arrays too."""
    with records.open(folder / "run.qprobe") as run:
        series = {
            column: (part.steps, part.values)
            for column, part in run.select()
            if column.probe != "training" and column.key not in TIMES
        }
        arrays = {(a.step, *a.column): a.data.copy() for a in run.arrays()}
    return {"series": series, "arrays": arrays}


def same_training(one, other):
    """Where two trainings differ beside what probes leave."""
    return [name for name in differences(one, other) if name != "run: arrays"]


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "cnn", "recipe": "nvfp4-2d-rht-sr", "clip": 0.5, "steps": 3},
        {"arch": "vit", "recipe": "int4-tensor", "accumulate": 2, "steps": 3},
        {"arch": "swin", "recipe": "bf16", "precision": "bf16", "steps": 3},
        {"arch": "cnn", "recipe": "nvfp4", "precision": "fp16", "steps": 3},
    ],
    ids=lambda changes: changes["arch"] + "-" + changes.get("precision", "fp32"),
)
def test_a_training_is_the_same_to_the_bit_with_probes_and_without(changes, small, tmp_path):
    config = small(**changes)
    train(config, tmp_path / "plain")
    watch = probing()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(config, tmp_path / "watched", callbacks=[watch])
    assert same_training(tmp_path / "plain", tmp_path / "watched") == []
    assert result.status is Status.FINISHED
    with records.open(tmp_path / "watched" / "run.qprobe") as run:
        assert run.meta.config["hash"] == config.resolved().hash
        probes = {column.probe for column, _ in run.select()}
        steps = [part.steps.tolist() for _, part in run.select(probe="histogram", key="n")]
    assert {"moments", "four_bit", "histogram", "session", "branch_energy"} <= probes
    assert steps[0] == [step for step in range(1, result.steps + 1) if step % 2]


RECIPES = {"cnn": "nvfp4-2d-rht-sr", "vit": "nvfp4"}


@pytest.mark.parametrize("arch", ["cnn", pytest.param("vit", marks=pytest.mark.slow)])
def test_what_probes_saw_is_the_same_after_interruptions(arch, small, tmp_path):
    config = small(arch=arch, recipe=RECIPES[arch], epochs=2, checkpoint_every=3)
    train(config, tmp_path / "whole", callbacks=[probing()])
    for stop in (2, 5):
        stopping = [probing(), InterruptAt(stop)]
        paused = train(config, tmp_path / "parts", callbacks=stopping, resume=True)
        assert paused.steps == stop
    train(config, tmp_path / "parts", callbacks=[probing()], resume=True)
    assert same_training(tmp_path / "whole", tmp_path / "parts") == []
    whole, parts = seen(tmp_path / "whole"), seen(tmp_path / "parts")
    assert whole["series"].keys() == parts["series"].keys()
    wrong = [at for at, one in whole["series"].items() if not same(one, parts["series"][at])]
    assert wrong == []
    assert same(whole["arrays"], parts["arrays"])
    assert {at.probe for at in whole["series"]} >= {"update_health", "gradient_fidelity"}


def test_after_a_kill_no_step_is_there_twice(small, tmp_path):
    """A process dies without a word between two checkpoints; the next one takes its steps back."""
    config = small(arch="cnn", recipe="nvfp4", epochs=2, checkpoint_every=3)
    child = os.fork()
    if child == 0:

        class Die(Callback):
            def step(self, training):
                if training.step == 5:
                    training.writer.flush(wait=True)
                    os.kill(os.getpid(), signal.SIGKILL)

        train(config, tmp_path / "parts", callbacks=[probing(["moments"], 1), Die()])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert seen_steps(tmp_path / "parts") == [1, 2, 3, 4, 5]
    assert checkpoint.load(tmp_path / "parts" / "last.pt")["step"] == 4
    train(config, tmp_path / "parts", callbacks=[probing(["moments"], 1)], resume=True)
    train(config, tmp_path / "whole", callbacks=[probing(["moments"], 1)])
    assert same(seen(tmp_path / "whole"), seen(tmp_path / "parts"))
    assert seen_steps(tmp_path / "parts") == [*range(1, 9)]


def seen_steps(folder):
    with records.open(folder / "run.qprobe") as run:
        return run.series("head", "output", "moments", "std").steps.tolist()


def test_weight_gradients_are_seen_before_they_are_clipped(small, tmp_path):
    """What a probe of the weight's gradient sees, against the norm that the engine records."""
    whole = {"n": 0.0, "squares": 0.0}

    class Gradients(Moments):
        name = "gradients"
        needs = frozenset()

        def selects(self, site):
            return site.role == "grad_weight"

        def observe(self, view):
            whole["squares"] += float(view.tensor.double().pow(2).sum())
            whole["n"] += 1

    config = small(arch="vit", recipe="bf16", steps=1, clip=1e-3)
    watch = probing([Gradients()])
    train(config, tmp_path / "run", callbacks=[watch])
    with records.open(tmp_path / "run" / "run.qprobe") as run:
        norm = run.series("", "", "training", "grad_norm").values[0]
    assert whole["n"] > 10
    assert 1e-3 < 0.5 * norm < whole["squares"] ** 0.5 <= norm * (1 + 1e-6)


def test_the_example_is_no_batch_of_the_training(small):
    bench, other = prepare(small(arch="cnn")), prepare(small(arch="cnn"))
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    assert bench.example(2).shape == (2, 3, 32, 32)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bench.train.state_dict() == other.train.state_dict()
    for mine, theirs in islice(zip(bench.train, other.train, strict=True), 3):
        assert torch.equal(mine.image, theirs.image)


def test_none_stay_none_and_a_training_without_goes_on_without(small, tmp_path):
    config = small(arch="cnn", recipe="bf16", steps=4)
    train(config, tmp_path / "none", callbacks=[ProbeCallback(()), InterruptAt(2)])
    again = ProbeCallback()
    train(config, tmp_path / "none", callbacks=[again], resume=True)
    assert again.session is None
    train(config, tmp_path / "before", callbacks=[InterruptAt(2)])
    train(config, tmp_path / "before", callbacks=[again], resume=True)
    assert again.session is None
    assert seen(tmp_path / "none")["series"] == seen(tmp_path / "before")["series"] == {}


def test_a_resumed_training_may_be_watched_by_others(small, tmp_path):
    config = small(arch="cnn", recipe="bf16", steps=4)
    stop = [probing(["histogram"], 1), InterruptAt(2)]
    train(config, tmp_path / "run", callbacks=stop)
    train(config, tmp_path / "run", callbacks=[probing(["moments"], 1)], resume=True)
    with records.open(tmp_path / "run" / "run.qprobe") as run:
        assert run.series("head", "input", "histogram", "n").steps.tolist() == [1, 2]
        assert run.series("head", "input", "moments", "n").steps.tolist() == [3, 4]


def test_what_cannot_be_saved_is_said_before_a_checkpoint_is_spoilt(small, tmp_path):
    class Hoarder(Moments):
        name = "hoarder"
        needs = frozenset()

        def observe(self, view):
            view.memory["seen"] = {"all": [view.site]}

    with pytest.raises(InputError, match=r"the probe hoarder at .* remembers a Site, which a"):
        train(
            small(arch="cnn", steps=4, checkpoint_every=1),
            tmp_path / "run",
            callbacks=[probing([Hoarder()])],
        )
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 0


def test_the_budget_goes_on_where_it_was(small, tmp_path):
    config = small(arch="cnn", steps=6)
    first = ProbeCallback("moments", every=1, budget="0.1%")
    train(config, tmp_path / "run", callbacks=[first, InterruptAt(4)])
    stretch = first.session.report().stretch
    assert stretch > 10
    again = ProbeCallback()
    train(config, tmp_path / "run", callbacks=[again], resume=True)
    assert again.session.report().stretch == stretch
    assert again.session.report().looks == first.session.report().looks


def test_every_default_probe_can_be_saved(small, tmp_path):
    """The state of all of them is plain data, and loads as such."""
    watch = probing(every=1)
    train(
        small(arch="vit", recipe="nvfp4", layers="all", steps=1),
        tmp_path / "run",
        callbacks=[watch],
    )
    state = checkpoint.load(tmp_path / "run" / "last.pt")["callbacks"]["probes"]
    slots = state["session"]["slots"]
    asked = {name.split(" at ")[0] for name in slots}
    assert asked >= {"update_health", "attention_logits", "gradient_fidelity", "branch_energy"}
    assert np.isfinite(state["session"]["agenda"]["budget"]["stretch"])
