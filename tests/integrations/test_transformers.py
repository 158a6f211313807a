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
