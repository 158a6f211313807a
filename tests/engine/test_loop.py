import math
import os
import random
import signal
from itertools import islice
from pathlib import Path

import pytest
import torch
from run_contents import differences, measured, same, weights

from qprobe import records
from qprobe.engine import Callback, OnNonFinite, Training, evaluate, reopen, train
from qprobe.engine.workbench import prepare
from qprobe.errors import InputError
from qprobe.quant import recipes
from qprobe.records import Status

RECIPES = [one.name for one in recipes()]
ARCHITECTURES = ("cnn", "vit", "swin")


class InterruptAt(Callback):
    """Ctrl-C while a step is running."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, training: Training) -> None:
        if training.step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


class Watch(Callback):
    """What a step saw."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.ends: list[Status] = []

    def step(self, training: Training) -> None:
        self.losses.append(training.loss)

    def epoch(self, training, scores) -> None:
        self.rates.append(training.lr)

    def end(self, training: Training, status: Status) -> None:
        self.ends.append(status)


class Spoil(Callback):
    """A weight that makes the next loss NaN, or makes only the gradient overflow."""

    def __init__(self, at: int, value: float = math.nan) -> None:
        self.at, self.value = at, value

    def step(self, training: Training) -> None:
        if training.step == self.at:
            self._handle = training.model.head.register_forward_hook(
                lambda module, given, logits: logits * self.value
            )
        elif training.step == self.at + 1:
            self._handle.remove()


INTERRUPTED = {
    "plateau": {
        "arch": "cnn", "recipe": "nvfp4-2d-rht-sr", "epochs": 13, "min_delta": 1.0,
        "grace": 50, "checkpoint_every": 3,
    },
    "cosine": {
        "arch": "vit", "recipe": "nvfp4-2d-rht-sr", "epochs": 5, "schedule": "cosine", "warmup": 3,
        "accumulate": 2, "clip": 0.5, "steps": 18,
    },
    "constant": {
        "arch": "swin", "recipe": "nvfp4-sr", "epochs": 4, "schedule": "constant",
        "optimizer": "sgd", "precision": "bf16", "fold": 1, "folds": 3, "patience": 2, "grace": 1,
        "min_delta": 1.0,
    },
    "fp16": {"arch": "cnn", "recipe": "int4-tensor", "epochs": 2, "precision": "fp16"},
}  # fmt: skip


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_training_goes_on_to_the_bit(name, small, tmp_path):
    config = small(**INTERRUPTED[name])
    whole = train(config, tmp_path / "whole")
    moments = random.Random(name)  # noqa: S311  (moments to stop at, no secret)
    # 4 ends an epoch, 1 comes before the first validation.
    stops = sorted({1, 4, *(moments.randrange(1, whole.steps) for _ in range(3))})
    for stop in stops:
        paused = train(config, tmp_path / "parts", callbacks=[InterruptAt(stop)], resume=True)
        assert (paused.status, paused.steps) == (Status.INTERRUPTED, stop)
    parts = train(config, tmp_path / "parts", resume=True)
    assert differences(tmp_path / "whole", tmp_path / "parts") == []
    assert (parts.status, parts.steps, parts.epochs) == ("finished", whole.steps, whole.epochs)
    assert same((parts.best_score, parts.best_step), (whole.best_score, whole.best_step))
    assert same(dict(parts.test), dict(whole.test))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_recipe_starts_from_the_same_weights_and_sees_the_same_batches(arch, small):
    first = None
    for recipe in RECIPES:
        bench = prepare(small(arch=arch, recipe=recipe))
        seen = [
            {name: value.clone() for name, value in bench.model.state_dict().items()},
            [(b.samples, b.image, b.mask) for b in islice(iter(bench.train), 2)],
        ]
        first = first or seen
        assert same(seen, first), recipe
    other = prepare(small(arch=arch, seed=1))
    assert not same(dict(other.model.state_dict()), first[0])


def test_dropout_is_the_same_under_every_recipe(small, tmp_path):
    states = []
    for recipe in ("bf16", "nvfp4-2d-rht-sr"):
        train(small(arch="cnn", recipe=recipe, steps=2), tmp_path / recipe)
        states.append(weights(tmp_path / recipe)["rng"])
    assert torch.equal(*states)


def test_the_random_state_of_the_process_is_left_alone(small, tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    train(small(arch="cnn", steps=2, recipe="nvfp4-sr"), tmp_path / "a")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    train(small(arch="cnn", steps=2, recipe="nvfp4-sr"), tmp_path / "b")
    assert differences(tmp_path / "a", tmp_path / "b") == []


def test_a_finished_training_is_returned_and_not_run_again(small, tmp_path):
    config = small(steps=5)
    first = train(config, tmp_path / "run")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    watch = Watch()
    again = train(config, tmp_path / "run", resume=True, callbacks=[watch])
    assert again == first
    assert not watch.losses
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == files


def test_every_step_and_every_score_is_recorded_once(small, tmp_path):
    config = small(arch="cnn", epochs=3, steps=10)
    watch = Watch()
    result = train(config, tmp_path / "run", callbacks=[watch])
    seen = measured(tmp_path / "run")
    steps, losses = seen["series"]["loss"]
    assert steps.tolist() == list(range(1, 11))
    assert losses.tolist() == watch.losses
    epochs = [(m[0], m[1]) for m in seen["metrics"] if m[2:4] == ("validation", "auprc")]
    assert epochs == [(4, 1), (8, 2), (10, 3)]
    assert {m[3]: m[4] for m in seen["metrics"] if m[2] == "test"} == result.test
    assert len({sample for _, sample, _, name, _ in seen["samples"]}) == 2 * 4
    with records.open(tmp_path / "run" / "run.qprobe") as run:
        assert len(run.series("", "", "training", "step_s")) == 10
        assert run.meta.config == {**config.resolved().as_json(), "hash": config.hash}


def test_the_test_is_of_the_best_weights(small, tmp_path, monkeypatch):
    scores = iter([0.2, 0.9, 0.9, 0.1])
    monkeypatch.setattr("qprobe.engine.loop._score", lambda *_: next(scores))
    result = train(small(arch="cnn", epochs=4), tmp_path / "run")
    best = weights(tmp_path / "run", "best.pt")
    # The first of two equal ones.
    assert (result.best_step, result.best_score) == (best["step"], best["score"]) == (8, 0.9)
    found = {}
    for name in ("best.pt", "last.pt"):
        bench = reopen(tmp_path / "run" / name)
        again = evaluate(bench.model, bench.test, bench.device, show=False)
        found[name] = {"loss": again.loss, **again.pooled()}
    assert found["best.pt"] == dict(result.test) != found["last.pt"]


def test_accumulation_adds_up_to_the_whole_batch(small, tmp_path):
    """Without dropout and batch norm, parts of a batch give the gradient of the batch."""
    seen = {}
    for parts in (1, 4):
        config = small(
            arch="vit", model={"dropout": 0.0, "drop_path": 0.0}, accumulate=parts, steps=3
        )
        train(config, tmp_path / str(parts))
        seen[parts] = measured(tmp_path / str(parts))["series"]
    for key in ("loss", "grad_norm"):
        assert seen[4][key][1] == pytest.approx(seen[1][key][1], rel=1e-4)
    assert not same(seen[1]["loss"], seen[4]["loss"])  # the sums are taken in another order


def test_a_clipped_gradient_moves_plain_descent_by_the_limit(small, tmp_path):
    config = small(arch="vit", optimizer="sgd", lr=1.0, weight_decay=0, clip=1e-3, steps=1)
    before = prepare(config).model.state_dict()
    train(config, tmp_path / "run")
    after = weights(tmp_path / "run")["model"]
    moved = math.sqrt(sum(float((after[n] - before[n]).double().square().sum()) for n in after))
    assert moved == pytest.approx(1e-3, rel=1e-3)
    assert measured(tmp_path / "run")["series"]["grad_norm"][1][0] > 1e-3  # before it was clipped


def test_early_stopping_counts_from_the_grace_on(small, tmp_path):
    """No score rises by 1, so the bar stays where the first epoch put it."""
    config = small(arch="vit", epochs=30, patience=3, grace=5, min_delta=1.0)
    assert train(config, tmp_path / "grace").epochs == 5 + 3
    config = small(arch="vit", epochs=30, patience=3, grace=0, min_delta=1.0)
    assert train(config, tmp_path / "none").epochs == 1 + 3


def test_a_plateau_halves_the_rate(small, tmp_path):
    """At such a rate no score rises by 1e-4: after ten epochs without a rise it is halved."""
    watch = Watch()
    config = small(
        arch="vit", epochs=13, lr=1e-6, optimizer="sgd", weight_decay=0, batch=32, grace=50,
        model={"dropout": 0.0}, augment=False,
    )  # fmt: skip
    train(config, tmp_path / "run", callbacks=[watch])
    assert watch.rates == [1e-6] * 11 + [0.5e-6] * 2


def test_a_loss_that_is_not_finite_is_recorded_and_stops(small, tmp_path):
    config = small(arch="cnn", checkpoint_every=2)
    result = train(config, tmp_path / "run", callbacks=[Spoil(at=5)])
    assert (result.status, result.reason) == (Status.FAILED, "the loss is nan at step 6")
    assert not result.test
    with records.open(tmp_path / "run" / "run.qprobe") as run:
        assert (run.meta.status, run.meta.reason) == (Status.FAILED, result.reason)
        loss = run.series("", "", "training", "loss")
    assert loss.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert math.isnan(loss.values[-1])
    assert all(torch.isfinite(w).all() for w in weights(tmp_path / "run")["model"].values())
    # Resumed without the fault it goes on from the last save, as if there had been none.
    train(config, tmp_path / "run", resume=True)
    train(config, tmp_path / "healthy")
    assert differences(tmp_path / "run", tmp_path / "healthy") == []


def test_a_gradient_that_is_not_finite_stops_before_the_weights_take_it(small, tmp_path):
    class Overflow(Callback):
        def begin(self, training: Training) -> None:
            training.model.head.bias.register_hook(lambda gradient: gradient * math.inf)

    config = small(arch="cnn")
    result = train(config, tmp_path / "run", callbacks=[Overflow()])
    assert result.status == "failed"
    assert result.reason in (
        "the norm of the gradient is inf at step 1", "the norm of the gradient is nan at step 1",
    )  # fmt: skip
    assert measured(tmp_path / "run")["series"]["loss"][0].tolist() == [1]


def test_going_on_after_a_loss_that_is_not_finite_leaves_the_weights_alone(small, tmp_path):
    class Weights(Callback):
        def __init__(self) -> None:
            self.seen: list[dict[str, torch.Tensor]] = []

        def step(self, training: Training) -> None:
            state = training.model.state_dict()
            self.seen.append({name: value.clone() for name, value in state.items()})

    class SpoilInput(Callback):
        """NaN reaches the running statistics of every batch norm."""

        def step(self, training: Training) -> None:
            if training.step == 4:
                self._handle = training.model.encoder[0].conv.register_forward_hook(
                    lambda module, given, y: y * math.nan
                )
            elif training.step == 5:
                self._handle.remove()

    # The spoiling comes last: a validation follows step 4, and must not see it.
    seen = Weights()
    config = small(arch="cnn", on_nonfinite="continue", batch=4)
    assert config.on_nonfinite is OnNonFinite.CONTINUE
    result = train(config, tmp_path / "run", callbacks=[seen, SpoilInput()])
    assert result.status == "finished"
    losses = measured(tmp_path / "run")["series"]["loss"][1]
    assert [math.isnan(loss) for loss in losses[:8]] == [False] * 4 + [True] + [False] * 3
    assert same(seen.seen[4], seen.seen[3])
    assert not same(seen.seen[5], seen.seen[4])
    assert math.isfinite(result.test["auprc"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_have_a_loss_of_nan_and_no_scores(value, small, tmp_path):
    class SpoilEvaluation(Callback):
        def begin(self, training: Training) -> None:
            def spoil(module, given, logits):
                broken = training.epoch == 0 and not module.training
                return torch.full_like(logits, value) if broken else logits

            training.model.head.register_forward_hook(spoil)

    result = train(small(arch="cnn", epochs=2), tmp_path / "run", callbacks=[SpoilEvaluation()])
    found = {
        epoch: {name: v for _, e, split, name, v in measured(tmp_path / "run")["metrics"]
                if (e, split) == (epoch, "validation")}
        for epoch in (1, 2)
    }  # fmt: skip
    assert list(found[1]) == ["loss"]
    assert math.isnan(found[1]["loss"])
    assert result.best_step == 8  # the first epoch's weights were the best until they were beaten
    assert result.best_score == found[2]["auprc"]


def test_best_weights_are_kept_even_if_no_score_was_ever_defined(small, tmp_path):
    class Spoilt(Callback):
        def begin(self, training: Training) -> None:
            training.model.head.register_forward_hook(
                lambda module, given, y: y if module.training else y * math.nan
            )

    result = train(small(arch="cnn", epochs=2), tmp_path / "run", callbacks=[Spoilt()])
    assert (result.status, result.best_step, result.best_score) == ("finished", 4, -math.inf)
    assert list(result.test) == ["loss"]


def test_callbacks_hear_how_it_ended(small, tmp_path):
    class Twice(Callback):
        def step(self, training: Training) -> None:
            if training.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    class Broken(Callback):
        def step(self, training: Training) -> None:
            raise ZeroDivisionError("a callback failed")

    watch = Watch()
    with pytest.raises(KeyboardInterrupt):
        train(small(), tmp_path / "run", callbacks=[watch, Twice()])
    with records.open(tmp_path / "run" / "run.qprobe") as run:
        assert run.meta.status is Status.INTERRUPTED
    with pytest.raises(ZeroDivisionError):
        train(small(), tmp_path / "run", callbacks=[watch, Broken()], resume=True)
    with records.open(tmp_path / "run" / "run.qprobe") as run:
        assert run.meta.reason == "ZeroDivisionError: a callback failed"
    train(small(), tmp_path / "run", callbacks=[watch], resume=True)
    assert watch.ends == [Status.INTERRUPTED, Status.FAILED, Status.FINISHED]


def test_a_validation_set_without_foreground_is_refused(small, foreign, tmp_path):
    name = foreign(EMPTY)
    with pytest.raises(InputError, match="no foreground at all"):
        train(small(data=f"{name}:data", data_options={}, validation=1, test=1), tmp_path / "run")


EMPTY = """
import torch
from qprobe.engine.data import HeldDataset, Sample

class Empty:
    name, channels, classes = "empty", 3, 2
    patients = [f"p{i // 4}" for i in range(40)]
    def __len__(self):
        return 40
    def __getitem__(self, i):
        return Sample(image=torch.rand(3, 32, 32), mask=torch.zeros(32, 32, dtype=torch.uint8),
                      patient=self.patients[i], sample=str(i))

def data():
    return Empty()
"""


def _trains(config, folder: Path) -> None:
    result = train(config, folder)
    losses = measured(folder)["series"]["loss"][1]
    assert result.status == "finished"
    assert len(losses) == config.steps
    assert all(map(math.isfinite, losses))


# Each recipe on one architecture, the three in turn; all pairs in the slow test.
@pytest.mark.parametrize(
    ("arch", "recipe"),
    [(ARCHITECTURES[place % 3], recipe) for place, recipe in enumerate(RECIPES)],
)
def test_a_recipe_trains(arch, recipe, small, tmp_path):
    _trains(small(arch=arch, recipe=recipe, steps=2, batch=4), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_every_architecture(arch, recipe, small, tmp_path):
    _trains(small(arch=arch, recipe=recipe, steps=6, layers="all"), tmp_path / "run")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(precision, small, tmp_path):
    config = small(arch="cnn", recipe="nvfp4", precision=precision, steps=3)
    _trains(config, tmp_path / "run")
    saved = weights(tmp_path / "run")["scaler"]
    assert bool(saved) is (precision == "fp16")


def test_a_loss_scale_that_is_too_large_is_halved_and_fails_nothing(small, tmp_path):
    class TooLarge(Callback):
        def begin(self, training: Training) -> None:
            state = training.bench.scaler.state_dict()
            training.bench.scaler.load_state_dict({**state, "scale": 2.0**120})

    config = small(arch="cnn", precision="fp16", steps=3)
    result = train(config, tmp_path / "run", callbacks=[TooLarge()])
    assert result.status == "finished"
    assert weights(tmp_path / "run")["scaler"]["scale"] == 2.0**117


VOLUMES = """
from torch import nn

def network(in_channels, classes):
    return nn.Sequential(
        nn.Conv3d(in_channels, 16, 3, padding=1), nn.ReLU(),
        nn.Conv3d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv3d(16, classes, 1),
    )
"""


def test_a_network_of_the_user_trains_on_volumes_of_several_classes(
    small, foreign, cache, tmp_path
):
    config = small(
        arch=f"{foreign(VOLUMES)}:network", size="500k", image=64, data="phantom3d",
        data_options={"patients": 6, "image": 16, "cache": str(cache)}, batch=2, epochs=1,
        validation=1, test=1, recipe="nvfp4-2d-rht-sr",
    )  # fmt: skip
    result = train(config, tmp_path / "run")
    assert result.status == "finished"
    assert {"auprc", "dice", "surface_dice"} <= set(result.test)
    keys = {key for _, probe, key in measured(tmp_path / "run")["arrays"]}
    assert any(key.startswith("histograms.test.class5") for key in keys)


@pytest.mark.slow
def test_a_unet_of_monai_trains(small, tmp_path):
    pytest.importorskip("monai")
    config = small(
        arch="monai:UNet", size="500k", image=64, batch=4, steps=4, recipe="nvfp4",
        model={"channels": [16, 32, 64], "strides": [2, 2], "num_res_units": 1},
    )  # fmt: skip
    _trains(config, tmp_path / "run")
    assert train(config, tmp_path / "run", resume=True).status == "finished"


def test_a_callback_sees_whole_gradients_before_they_are_clipped_and_used(small, tmp_path):
    class Look(Callback):
        def __init__(self) -> None:
            self.norms: list[tuple[float, float]] = []
            self.moved: list[bool] = []

        def gradients(self, training: Training) -> None:
            grads = [p.grad.norm() for p in training.model.parameters()]
            self.norm = float(torch.stack(grads).norm())
            self.before = training.model.head.weight.detach().clone()

        def step(self, training: Training) -> None:
            self.norms.append((self.norm, training.grad_norm))
            self.moved.append(not torch.equal(self.before, training.model.head.weight))

    look = Look()
    train(small(steps=3, accumulate=2, clip=1e-3), tmp_path / "run", callbacks=[look])
    assert all(seen == pytest.approx(whole) and seen > 1e-3 for seen, whole in look.norms)
    assert look.moved == [True, True, True]


def test_a_callback_can_write_to_the_run_as_long_as_it_is_called(small, tmp_path):
    class Last(Callback):
        def end(self, training: Training, status: Status) -> None:
            column = records.Column("", "", "last", "step")
            training.writer.record(training.step, column, 1.0 if status == "finished" else 0.0)

    train(small(steps=3), tmp_path / "run", callbacks=[Last()])
    with records.open(tmp_path / "run" / "run.qprobe") as run:
        assert run.series("", "", "last", "step").values.tolist() == [1.0]
        assert run.meta.status is Status.FINISHED
