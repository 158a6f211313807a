"""docs/howto/attach-to-a-training-loop.md: its script, run as it stands, and its sinks."""

import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import nvfp4
from torch import nn

import qprobe
from qprobe import records

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "attach-to-a-training-loop.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
(SCRIPT,) = (block for block in BLOCKS if block.startswith("# attach.py"))
(TENSORBOARD,) = (block for block in BLOCKS if "SummaryWriter" in block)
(WANDB,) = (block for block in BLOCKS if "wandb" in block)
LAYER = "segformer.stages.0.blocks.0.mlp.fc1"


def stepped(model, session, x):
    model(x).sum().backward()
    session.step(loss=2.5)
    session.close()


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16)), torch.randn(8, 16)


def test_tensorboard_reads_what_was_recorded(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    model, x = tiny()
    found = {"qprobe": qprobe, "model": model}
    exec(TENSORBOARD, found)  # noqa: S102  (the page's own lines)
    stepped(model, found["session"], x)
    found["writer"].close()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert "moments/0/input/kurtosis" in events.Tags()["scalars"]
    (mean,) = events.Scalars("moments/0/input/mean")
    assert (mean.step, mean.value) == (1, pytest.approx(x.mean().item(), abs=1e-6))
    (loss,) = events.Scalars("training/loss")
    assert loss.value == 2.5


class Run:
    """As much of a run of Weights & Biases as the sink uses, with its signatures."""

    def __init__(self):
        self.logged, self.metrics = [], {}

    def log(self, data, step=None, commit=None):
        assert step is None
        self.logged.append(dict(data))

    def define_metric(self, name, step_metric=None, step_sync=None, hidden=None, summary=None):
        self.metrics[name] = step_metric


def test_weights_and_biases_is_told_by_its_own_words(monkeypatch):
    class Wandb:
        @staticmethod
        def init(project):
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    model, x = tiny()
    found = {"qprobe": qprobe, "model": model}
    exec(WANDB, found)  # noqa: S102  (the page's own lines)
    stepped(model, found["session"], x)
    (row,) = found["run"].logged
    assert found["run"].metrics == {"qprobe/step": None, "qprobe/*": "qprobe/step"}
    assert (row["qprobe/step"], row["qprobe/training/loss"]) == (1, 2.5)
    std = row["qprobe/moments/0/input/std"]
    assert std == pytest.approx(x.std(correction=0).item(), rel=1e-5)


@pytest.mark.slow
def test_weights_and_biases_keeps_what_it_was_told(tmp_path, monkeypatch):
    """With the real library, which writes to the disk alone; its file is read back."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    model, x = tiny()
    found = {"qprobe": qprobe, "model": model}
    exec(WANDB, found)  # noqa: S102  (the page's own lines)
    run, session = found["run"], found["session"]
    for step in range(1, 12):  # looks at 1 and 11, and tells the losses between with the second
        model(x).sum().backward()
        session.step(loss=float(step))
        run.log({"mine": step})
    session.close()
    run.finish()
    rows = list(history(next(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))))
    losses = {r["qprobe/step"]: r["qprobe/training/loss"] for r in rows if "qprobe/step" in r}
    assert losses == {step: float(step) for step in range(1, 12)}
    assert [row["mine"] for row in rows if "mine" in row] == list(range(1, 12))
    looks = {r["qprobe/step"]: r for r in rows if "qprobe/moments/0/input/std" in r}
    assert list(looks) == [1, 11]
    std = x.std(correction=0).item()
    assert looks[11]["qprobe/moments/0/input/std"] == pytest.approx(std, rel=1e-5)


def history(path):
    """The rows in a file of Weights & Biases: a log in blocks of 32 kB, as LevelDB has it."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a head does not fit into the rest of the block
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part of several
            record, part = Record.FromString(part), b""
            items = record.history.item
            if items:
                yield {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}


def expected(tensor):
    """Moments by NumPy and SciPy, in float64."""
    values = tensor.detach().double().numpy().ravel()
    return {
        "mean": values.mean(),
        "std": values.std(),
        "skewness": scipy.stats.skew(values),
        "kurtosis": scipy.stats.kurtosis(values, fisher=False),
        "absmax": np.abs(values).max(),
    }


def sqnrs_db(x):
    """SQNR of NVFP4 by the slow reference, in float64: of all tokens, and of each even sample."""
    noise = nvfp4.quantize(x).dequant.astype(np.float64) - x
    signal, noise = np.square(x, dtype=np.float64).sum(1), np.square(noise).sum(1)
    samples = [slice(first, None, every) for every in (8, 9) for first in range(every)]
    whole, *parts = (signal[at].sum() / noise[at].sum() for at in (slice(None), *samples))
    return 10 * np.log10(whole), 10 * np.log10(parts)


@pytest.mark.slow
def test_the_script_records_what_float64_finds_of_a_model_it_has_never_seen(tmp_path, monkeypatch):
    """Moments within 1e-4; SQNR within 0.001 dB of a sample's of one token in 8 or 9."""
    pytest.importorskip("transformers")
    name, *lines = [line for line in SCRIPT.splitlines() if line]
    assert name == "# attach.py"
    assert len(lines) == 10
    assert ";" not in SCRIPT
    assert max(map(len, lines)) <= 100
    monkeypatch.chdir(tmp_path)
    seen = {}
    torch.manual_seed(0)
    exec(SCRIPT.replace("with qprobe", "keep(model, batch)\nwith qprobe"), {"keep": keeper(seen)})  # noqa: S102
    with records.open(tmp_path / "x.qprobe") as run:
        assert run.series("", "", "training", "lr").steps.tolist() == [*range(1, 12)]
        assert run.series(LAYER, "input", "moments", "mean").steps.tolist() == [1, 11]
        for role, tensor in seen.items():
            for key, value in expected(tensor).items():
                found = run.series(LAYER, role, "moments", key).values[0]
                assert found == pytest.approx(value, rel=1e-4, abs=1e-7), (role, key)
        for role in ("input", "weight"):
            found = run.series(LAYER, role, "four_bit", "nvfp4.sqnr_db").values[0]
            whole, samples = sqnrs_db(seen[role].flatten(0, -2).numpy())
            assert found == pytest.approx(whole, abs=1.5)
            assert min(abs(found - one) for one in samples) < 1e-3
        probes = {column.probe for column, _ in run.select()}
    assert {"branch_energy", "histogram", "session"} <= probes


def keeper(seen):
    """Keeps the tensors of one layer in the first pass, by means of its own."""

    def keep(model, batch):
        layer = model.get_submodule(LAYER)
        seen["weight"] = layer.weight.detach().clone()

        def first(module, given, output):
            handle.remove()
            seen["input"], seen["output"] = given[0].detach().clone(), output.detach().clone()
            output.register_hook(lambda grad: seen.update(grad_output=grad.clone()))

        def skip_trace(module, given, output):
            tracing.remove()
            nonlocal handle
            handle = module.register_forward_hook(first)

        handle = None
        tracing = layer.register_forward_hook(skip_trace)  # attaching traces the model once

    return keep
