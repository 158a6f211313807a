import os
import pickle
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from qprobe.engine import checkpoint, reopen, train
from qprobe.engine.evaluation import evaluate
from qprobe.errors import InputError

CONTENT = {"step": 3, "model": {"w": torch.arange(6.0)}, "name": "é", "list": [1, None, True]}

SAVE = """
import sys
from pathlib import Path
import torch
from qprobe.engine import checkpoint
for number in range(10**6):
    checkpoint.save(Path(sys.argv[1]), {"number": number, "w": torch.full((200_000,), number)})
    print(number, flush=True)
"""


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "a.pt", CONTENT)
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(loaded.pop("model")["w"], torch.arange(6.0))
    assert loaded == {
        "format": "qprobe-checkpoint",
        "version": 1,
        "step": 3,
        "name": "é",
        "list": [1, None, True],
    }
    assert torch.load(tmp_path / "a.pt", weights_only=True)["step"] == 3
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    checkpoint.save(tmp_path / "a.pt", CONTENT)
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(tmp_path / "a.pt", {"step": 4, "function": lambda: 0})
    assert checkpoint.load(tmp_path / "a.pt")["step"] == 3
    assert os.listdir(tmp_path) == ["a.pt"]


def killed_while_saving(path: Path, after_s: float) -> None:
    command = [sys.executable, "-c", SAVE, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(after_s)
        child.kill()
        lines = child.stdout.read().split("\n")[:-1]
    loaded = checkpoint.load(path)
    assert loaded["number"] >= int(lines[-1] if lines else 0)
    assert torch.equal(loaded["w"], torch.full((200_000,), loaded["number"]))
    # However often that happens, there is one draft.
    assert set(os.listdir(path.parent)) <= {"a.pt", ".a.pt.new"}


def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path):
    killed_while_saving(tmp_path / "a.pt", 0.05)


@pytest.mark.slow
def test_processes_killed_while_they_save_leave_a_whole_file(tmp_path):
    moments = random.Random(0)  # noqa: S311  (moments to kill at, no secret)
    for _ in range(20):
        killed_while_saving(tmp_path / "a.pt", moments.uniform(0.0, 0.1))


def test_a_checkpoint_that_would_run_code_is_refused_unrun(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"format": checkpoint.FORMAT, "version": 1, "x": Hostile(mark)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds more than data and is not loaded") as refusal:
        checkpoint.load(tmp_path / "a.pt")
    assert not mark.exists()
    assert "\n" not in str(refusal.value)
    assert "it asks for posix.system;" in str(refusal.value)
    assert str(refusal.value).count(". ") == 0
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(InputError, match="not a checkpoint, or not a whole one"):
        checkpoint.load(tmp_path / "b.pt")
    assert not mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(share, tmp_path):
    checkpoint.save(tmp_path / "a.pt", CONTENT)
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="not a checkpoint, or not a whole one"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path):
    checkpoint.save(tmp_path / "a.pt", CONTENT)
    whole = (tmp_path / "a.pt").read_bytes()
    places = random.Random(1)  # noqa: S311  (places to damage, no secret)
    refused = 0
    for _ in range(400):
        place = places.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << places.randrange(8)
        (tmp_path / "b.pt").write_bytes(bytes(damaged))
        try:
            loaded = checkpoint.load(tmp_path / "b.pt")
        except InputError:
            refused += 1
        else:
            assert torch.equal(loaded["model"]["w"], CONTENT["model"]["w"])
            assert {name: loaded[name] for name in ("step", "name")} == {"step": 3, "name": "é"}
    assert refused > 100


def test_foreign_files_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"there is no checkpoint at .*none.pt"):
        checkpoint.load(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("weights")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("readme.txt", "no tensors here")
    torch.save({"model": {}}, tmp_path / "plain.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("text.pt", "zip.pt", "plain.pt", "list.pt"):
        with pytest.raises(InputError, match=name):
            checkpoint.load(tmp_path / name)


@pytest.mark.parametrize("version", [2, 0, None])
def test_another_version_is_refused_by_number(version, tmp_path):
    torch.save({"format": checkpoint.FORMAT, "version": version}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=rf"of version {version}, this qprobe reads 1"):
        checkpoint.load(tmp_path / "a.pt")


@pytest.mark.parametrize("arch", ["cnn", "swin"])
def test_the_best_checkpoint_alone_rebuilds_the_model_and_its_score(arch, small, tmp_path):
    config = small(arch=arch, recipe="nvfp4", epochs=2)
    result = train(config, tmp_path / "run")
    bench = reopen(tmp_path / "run" / "best.pt")
    assert bench.config == config.resolved()
    again = evaluate(bench.model, bench.test, bench.device, show=False)
    assert {"loss": again.loss, **again.pooled()} == dict(result.test)
    assert evaluate(
        bench.model, bench.validation, bench.device, show=False
    ).pooled()["auprc"] == result.best_score  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.pop("head.weight"), "lacks head.weight of the model"),
        (lambda model: model.update({"other": torch.ones(2)}), "the model has no other of"),
        (lambda model: model.update({"head.weight": torch.ones(3, 3)}),
         r"has head.weight \[3, 3\] where the model has \["),
    ],
)  # fmt: skip
def test_weights_of_another_model_are_refused_by_name(change, message, small, tmp_path):
    train(small(arch="cnn", epochs=1), tmp_path / "run")
    state = dict(checkpoint.load(tmp_path / "run" / "best.pt"))
    change(state["model"])
    checkpoint.save(tmp_path / "odd.pt", state)
    with pytest.raises(InputError, match=message):
        reopen(tmp_path / "odd.pt")
