"""With the real library: `make test-slow` installs it."""

import pytest
import torch
from plain_probes import Alone
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from qprobe import records
from qprobe.records import Status

pytestmark = [
    pytest.mark.slow,
    # Lightning's own, of this version beside this PyTorch.
    pytest.mark.filterwarnings("ignore"),
]
lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


class Module(lightning.LightningModule):
    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        self.fail_at = fail_at

    def training_step(self, batch, number):
        if number == self.fail_at:
            raise RuntimeError("out of luck")
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, number):
        return self.net(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(callback, path, **options):
    given = {
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": path, "max_epochs": 1,
    }  # fmt: skip
    return lightning.Trainer(callbacks=[callback], **{**given, **options})


def batches():
    return DataLoader(TensorDataset(X), batch_size=8)


def fit(path, module=None, *, ckpt_path=None, options=None, **attach):
    from qprobe.integrations.lightning import ProbeCallback

    chosen = {"probes": [Alone()], "every": 2, **attach}
    callback = ProbeCallback(path / "run.qprobe", **chosen)
    module = module or Module()
    trainer(callback, path, **(options or {})).fit(
        module, batches(), batches(), ckpt_path=ckpt_path
    )
    return callback, module


def steps(path, probe="alone"):
    with records.open(path / "run.qprobe") as run:
        looked = {step for _, series in run.select(probe=probe) for step in series.steps.tolist()}
        loss = run.series("", "", "training", "loss").steps.tolist()
        return sorted(looked), loss, run.meta.status


def test_every_optimizer_step_is_one_step_and_validation_is_none(tmp_path):
    callback, _ = fit(tmp_path, options={"val_check_interval": 3})
    assert steps(tmp_path) == ([1, 3, 5, 7], list(range(1, 9)), Status.FINISHED)
    assert callback.session.report().missed == ()


def test_the_module_is_what_it_would_be_without(tmp_path):
    _, watched = fit(tmp_path)
    alone = Module()
    trainer(lightning.Callback(), tmp_path).fit(alone, batches(), batches())
    for (name, one), other in zip(watched.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert not any(module._forward_hooks for module in watched.modules())


def test_accumulated_batches_are_one_step(tmp_path):
    fit(tmp_path, options={"accumulate_grad_batches": 4})
    assert steps(tmp_path) == ([1], [1, 2], Status.FINISHED)


def test_a_training_goes_on_where_its_checkpoint_stood(tmp_path):
    fit(tmp_path, options={"max_steps": 4, "max_epochs": -1})
    saved = next(tmp_path.rglob("*.ckpt"))
    fit(tmp_path, ckpt_path=saved, options={"max_steps": 8, "max_epochs": -1})
    looked, loss, status = steps(tmp_path)
    assert loss == list(range(1, 9))
    assert (looked, status) == ([1, 3, 5, 7], Status.FINISHED)


def test_what_probes_remember_goes_on_with_the_checkpoint(tmp_path):
    """``update_health`` compares with the last look, which was before the checkpoint."""
    options = {"probes": ["update_health"], "schedule": {"update_health": 3}, "every": 3}
    fit(tmp_path, options={"max_steps": 4, "max_epochs": -1}, **options)
    saved = next(tmp_path.rglob("*.ckpt"))
    fit(tmp_path, ckpt_path=saved, options={"max_steps": 8, "max_epochs": -1}, **options)
    assert steps(tmp_path, "update_health")[0] == [4, 7]
    with records.open(tmp_path / "run.qprobe") as run:
        between = [r.value for r in run.records() if r.key == "steps_between"]
    assert set(between) == {3.0}


def test_several_epochs_with_validation_end_early(tmp_path):
    class Scored(Module):
        def validation_step(self, batch, number):
            self.log("score", 0.0)

    module, stop = Scored(), lightning.callbacks.EarlyStopping("score", patience=1, mode="max")
    from qprobe.integrations.lightning import ProbeCallback

    callback = ProbeCallback(tmp_path / "run.qprobe", probes=[Alone()], every=5)
    fitting = trainer(callback, tmp_path, max_epochs=9)
    fitting.callbacks.append(stop)
    fitting.fit(module, batches(), batches())
    assert fitting.current_epoch == 2
    assert steps(tmp_path) == ([1, 6, 11, 16], list(range(1, 17)), Status.FINISHED)
    assert not any(one._forward_hooks for one in module.modules())


def test_an_exception_takes_hooks_off_and_is_in_the_run(tmp_path):
    module = Module(fail_at=3)
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path, module)
    with records.open(tmp_path / "run.qprobe") as run:
        assert run.meta.status is Status.FAILED
        assert run.meta.reason == "RuntimeError: out of luck"
    assert not any(one._forward_hooks for one in module.modules())
