import os
import pickle
import zipfile
from collections import Counter
from decimal import Decimal

import pytest
import torch

from qprobe import checkpoints
from qprobe.errors import InputError


class Runs:
    """What an attacker writes: a command that unpickling would run."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_code_is_named_and_not_run(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"w": torch.ones(2), "x": Runs(mark)}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"asks to run posix\.system.*safetensors") as caught:
        checkpoints.open(tmp_path / "m.pt")
    assert not mark.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Decimal(1), "decimal.Decimal"),
        (Counter("a"), "collections.Counter"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (bytearray(3), "builtin"),  # a number that allocates
        (torch.eye(2).to_sparse(), "_rebuild_sparse_tensor"),
    ],
)
def test_whatever_is_no_weight_is_refused_by_its_type(value, named, tmp_path):
    torch.save({"w": torch.ones(2), "x": value}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=named):
        checkpoints.open(tmp_path / "m.pt")


def added(after, name):
    return [(name, b"")] if after.endswith("data.pkl") else []


def rezipped(source, target, change):
    """``source`` once more, its members passed through ``change(name, bytes)``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            for name, content in change(member.filename, old.read(member)):
                new.writestr(name, content)


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.pt"
    torch.save({"w": torch.arange(1000.0)}, path)
    return path


def test_a_module_hidden_behind_the_stack_is_refused(good, tmp_path):
    # Protocol 4 names a type by two texts on the stack, which a scan for GLOBAL alone would miss.
    hidden = pickle.dumps(Runs("x"), protocol=4)

    def swapped(name, content):
        yield name, hidden if name.endswith("data.pkl") else content

    rezipped(good, tmp_path / "m.pt", swapped)
    with pytest.raises(InputError, match=r"posix\.system"):
        checkpoints.open(tmp_path / "m.pt")


def test_a_zip_bomb_is_refused_before_it_grows(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match="compressed or encrypted"):
        checkpoints.open(path)


def test_members_that_share_their_bytes_are_refused(good, tmp_path):
    """Many entries of one large member: a file that claims more than it has."""
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"N.")
        archive.writestr("m/data/0", bytes(10_000))
        for _ in range(9):
            archive.filelist.append(archive.infolist()[1])
    with pytest.raises(InputError, match=r"claims .* bytes of content in a file of"):
        checkpoints.open(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda n, c: [] if n.endswith("data.pkl") else [(n, c)], r"0 data\.pkl"),
        (lambda n, c: [(n, c), *added(n, "other/data.pkl")], r"2 data\.pkl"),
        (lambda n, c: [(n, c), *added(n, "good/constants.pkl")], "TorchScript"),
        (lambda n, c: [(n, b"x" if n.endswith(".pkl") else c)], "no readable table of contents"),
        (lambda n, c: [] if n.endswith("data/0") else [(n, c)], "cannot be read"),
        (lambda n, c: [(n, c[:40] if n.endswith("data/0") else c)], r"m\.pt"),
    ],
)
def test_an_archive_that_lacks_or_adds_something_is_refused(good, tmp_path, change, says):
    rezipped(good, tmp_path / "m.pt", change)
    with pytest.raises(InputError, match=says):
        checkpoints.open(tmp_path / "m.pt")


def test_a_changed_byte_of_a_tensor_is_found_by_its_checksum(good):
    content = bytearray(good.read_bytes())
    at = content.index(torch.tensor([500.0, 501.0]).numpy().tobytes())
    content[at] ^= 1
    good.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged at good/data/0"):
        checkpoints.open(good)


def test_a_tensor_larger_than_its_bytes_is_refused(tmp_path):
    torch.save({"w": torch.ones(1).expand(10**9)}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"'w', whose shape \[1000000000\] .* needs 4,000,000,000"):
        checkpoints.open(tmp_path / "m.pt")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is Linux's")
def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"a": torch.zeros(40_000_000), "b": torch.ones(3)}, path)  # 160 MB
    probe = (
        "import sys\n"
        "from qprobe import checkpoints\n"
        # ru_maxrss would start from the peak of the process that started this one.
        "def peak_kb():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('VmHWM'))\n"
        "before = peak_kb()\n"
        "opened = checkpoints.open(sys.argv[1])\n"
        "assert opened.read('b').tolist() == [1.0] * 3\n"
        "assert peak_kb() - before < 60_000, peak_kb() - before\n"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", probe, path], check=True)


def test_what_the_first_scan_lets_through_still_meets_the_loader(good, tmp_path, monkeypatch):
    from qprobe.checkpoints import pickled

    mark = tmp_path / "ran"
    torch.save({"x": Runs(mark)}, tmp_path / "m.pt")
    monkeypatch.setattr(pickled, "refused", lambda pickle: [])
    with pytest.raises(InputError, match="asks to run"):
        checkpoints.open(tmp_path / "m.pt")
    assert not mark.exists()
