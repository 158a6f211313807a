"""With the real library: `make test-slow` installs it."""

import pytest
import torch
from plain_probes import Alone

from qprobe import records
from qprobe.records import Status

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate, which a Trainer needs, is not installed")


class Words(torch.utils.data.Dataset):
    def __init__(self, broken: int | None = None) -> None:
        self.ids = torch.randint(0, 64, (32, 12), generator=torch.Generator().manual_seed(0))
        self.broken = broken

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at):
        if at == self.broken:
            raise RuntimeError("out of words")
        return {"input_ids": self.ids[at], "labels": self.ids[at]}


def model():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, attn_pdrop=0.0,
        resid_pdrop=0.0, embd_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def trainer(path, *callbacks, data=None, watched=None, scored=None, **options):
    given = {
        "output_dir": str(path / "out"), "per_device_train_batch_size": 4, "num_train_epochs": 1,
        "logging_steps": 2, "report_to": [], "use_cpu": True, "disable_tqdm": True,
        "save_strategy": "no", "seed": 0,
    }  # fmt: skip
    return transformers.Trainer(
        model=watched or model(),
        args=transformers.TrainingArguments(**{**given, **options}),
        train_dataset=data or Words(),
        eval_dataset=scored,
        callbacks=list(callbacks),
    )


def probing(path, **attach):
    from qprobe.integrations.transformers import ProbeCallback

    options = {"probes": [Alone()], "every": 2, **attach}
    return ProbeCallback(path / "run.qprobe", **options)


def test_every_optimizer_step_is_one_and_what_is_logged_is_recorded(tmp_path):
    callback = probing(tmp_path)
    trainer(tmp_path, callback).train()
    with records.open(tmp_path / "run.qprobe") as run:
        looked = {step for _, series in run.select(probe="alone") for step in series.steps.tolist()}
        loss = run.series("", "", "training", "loss")
        assert run.meta.status is Status.FINISHED
    assert sorted(looked) == [1, 3, 5, 7]
    assert loss.steps.tolist() == [2, 4, 6, 8]
    assert 0 < loss.values[-1] < 10
    assert callback.session.report().missed == ()


def test_the_model_is_what_it_would_be_without(tmp_path):
    watched, alone = model(), model()
    trainer(tmp_path, probing(tmp_path), watched=watched).train()
    trainer(tmp_path, watched=alone).train()
    for (name, one), other in zip(watched.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert not any(module._forward_hooks for module in watched.modules())


def test_a_training_goes_on_where_its_checkpoint_stood(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4, "logging_steps": 1}
    trainer(tmp_path, probing(tmp_path), max_steps=4, **saving).train()
    again = trainer(tmp_path, probing(tmp_path), max_steps=8, **saving)
    again.train(resume_from_checkpoint=True)
    with records.open(tmp_path / "run.qprobe") as run:
        assert run.series("", "", "training", "loss").steps.tolist() == list(range(1, 9))


class StopAfter(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step == self.step


REMEMBERING = {
    "probes": ["update_health", "moments", "four_bit"], "every": 2,
    "schedule": {"update_health": 3},
}  # fmt: skip


def recorded(path):
    """All that was measured, but for times."""
    timed = {"seconds", "step_s", "overhead_percent"}
    with records.open(path / "run.qprobe") as run:
        return {
            (r.step, r.site, r.role, r.probe, r.key): r.value
            for r in run.records()
            if r.key not in timed and not r.key.startswith(("train_", "total_"))
        }


def test_what_was_taken_up_again_is_what_was_never_interrupted(tmp_path):
    """To the bit: samples, what ``update_health`` compares with, and the scale of NVFP4."""
    saving = {"save_strategy": "steps", "save_steps": 4, "logging_steps": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer(whole, probing(whole, **REMEMBERING), **saving).train()
    trainer(parts, probing(parts, **REMEMBERING), StopAfter(4), **saving).train()
    trainer(parts, probing(parts, **REMEMBERING), **saving).train(resume_from_checkpoint=True)
    expected = recorded(whole)
    assert recorded(parts) == expected
    health = {step for step, *_, probe, _ in expected if probe == "update_health"}
    assert health == {4, 7}
    assert {step for step, *_, key in expected if key == "loss"} == set(range(1, 9))


def test_a_checkpoint_may_lie_elsewhere_and_one_without_memory_is_said(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, probing(tmp_path, **REMEMBERING), StopAfter(4), **saving).train()
    moved = (tmp_path / "out" / "checkpoint-4").rename(tmp_path / "moved")
    known = probing(tmp_path, checkpoint=moved, **REMEMBERING)
    trainer(tmp_path, known, **saving).train(resume_from_checkpoint=str(moved))
    with records.open(tmp_path / "run.qprobe") as run:
        between = [r.value for r in run.records() if r.key == "steps_between"]
    assert set(between) == {3.0}
    (moved / "qprobe_0.pt").unlink()
    with pytest.warns(UserWarning, match=r"no .*qprobe_0\.pt, so the session does not remember"):
        trainer(tmp_path, probing(tmp_path, checkpoint=moved, **REMEMBERING), **saving).train(
            resume_from_checkpoint=str(moved)
        )


def test_several_epochs_with_evaluation_end_early(tmp_path):
    """Evaluation is not looked at, and its numbers are recorded with the step they are of."""
    watched, callback = model(), probing(tmp_path)
    stop = transformers.EarlyStoppingCallback(early_stopping_patience=1)
    scoring = {
        "eval_strategy": "epoch", "metric_for_best_model": "eval_loss", "greater_is_better": True,
        "load_best_model_at_end": True, "save_strategy": "epoch", "num_train_epochs": 5,
        "learning_rate": 1e-2,
    }  # fmt: skip
    trainer(tmp_path, callback, stop, watched=watched, scored=Words(), **scoring).train()
    with records.open(tmp_path / "run.qprobe") as run:
        inputs = run.series("lm_head", "input", "alone", "looks")
        scores = run.series("", "", "training", "eval_loss")
        assert run.meta.status is Status.FINISHED
    assert scores.steps.tolist() == [8, 16]  # the loss falls, which here counts as getting worse
    assert inputs.steps.tolist() == list(range(1, 17, 2))
    assert set(inputs.values.tolist()) == {1.0}
    assert not any(one._forward_hooks for one in watched.modules())


def test_inside_with_an_exception_takes_hooks_off_and_is_in_the_run(tmp_path):
    watched = model()
    callback = probing(tmp_path)
    with pytest.raises(RuntimeError, match="out of words"), callback:
        trainer(tmp_path, callback, data=Words(broken=3), watched=watched).train()
    with records.open(tmp_path / "run.qprobe") as run:
        assert run.meta.status is Status.FAILED
        assert run.meta.reason == "RuntimeError: out of words"
    assert not any(one._forward_hooks for one in watched.modules())
