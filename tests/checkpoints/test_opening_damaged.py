"""Damaged files of every kind: they open, or one InputError says why not; nothing else comes out.

What opens is read through, so that damage is not just put off.
"""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from qprobe import checkpoints
from qprobe.errors import InputError

PACKED = {
    "a.weight": torch.arange(64, dtype=torch.uint8).reshape(4, 16),
    "a.weight_scale": torch.ones(4, 2).to(torch.float8_e4m3fn),
    "a.weight_scale_2": torch.tensor(0.5),
    "a.pre_quant_scale": torch.ones(32),
    "b.weight_packed": torch.arange(16, dtype=torch.int32).reshape(4, 4),
    "b.weight_scale": torch.ones(4, 1),
    "b.weight_shape": torch.tensor([4, 32]),
    "c.qweight": torch.arange(32, dtype=torch.int32).reshape(4, 8),
    "c.qzeros": torch.zeros(1, 1, dtype=torch.int32),
    "c.scales": torch.ones(1, 8).half(),
    "c.g_idx": torch.zeros(32, dtype=torch.int32),
    "e.weight_packed": torch.arange(32, dtype=torch.uint8).reshape(2, 16),
    "e.weight_scale": torch.full((2, 1), 120, dtype=torch.uint8),
    "f_blocks": torch.arange(64, dtype=torch.uint8).reshape(2, 2, 1, 16),
    "f_scales": torch.full((2, 2, 1), 125, dtype=torch.uint8),
    "d.weight": torch.randn(3, 3, generator=torch.Generator().manual_seed(0)),
}
TABLE = {"weight_map": dict.fromkeys(PACKED, "s.safetensors")}


def torch_file(path):
    torch.save({"state_dict": PACKED, "epoch": 3}, path)


def safetensors_file(path):
    save_file(PACKED, path, metadata={"by": "us"})


def index(path):
    path.write_text(json.dumps(TABLE))


KINDS = {"m.pt": torch_file, "m.safetensors": safetensors_file, "m.safetensors.index.json": index}


class Originals(dict):
    def __repr__(self):  # kept out of the report of a failing example
        return "originals"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    save_file(PACKED, folder / "s.safetensors")
    for name, write in KINDS.items():
        write(folder / name)
    return Originals({name: (folder / name, (folder / name).read_bytes()) for name in KINDS})


def survives(path):
    """Whether it opened; anything but an InputError is a defect."""
    try:
        opened = checkpoints.open(path)
        for name in opened.weights:
            read = opened.read(name)
            (read if isinstance(read, torch.Tensor) else read.values()).float().sum()
    except InputError as error:
        said = str(error)
    else:
        return True
    assert said.isprintable()
    return False


changes = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)
quietly = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("kind", KINDS)
@quietly
@given(cut=st.floats(0, 0.999))
def test_a_file_cut_short_is_refused(kind, originals, cut):
    path, whole = originals[kind]
    damaged = path.with_name(f"cut-{path.name}")
    damaged.write_bytes(whole[: int(cut * len(whole))])
    assert not survives(damaged)


@pytest.mark.parametrize("kind", KINDS)
@quietly
@given(changed=changes)
def test_changed_bytes_never_raise_anything_else(kind, originals, changed):
    path, whole = originals[kind]
    content = bytearray(whole)
    for where, byte in changed:
        content[int(where * (len(content) - 1))] = byte
    damaged = path.with_name(f"changed-{path.name}")
    damaged.write_bytes(content)
    survives(damaged)


@quietly
@given(changed=changes, cut=st.integers(0, 3))
def test_a_changed_table_of_contents_never_raises_anything_else(originals, changed, cut):
    """Behind a checksum that fits, where the damage of the others does not reach."""
    import zipfile

    path, _ = originals["m.pt"]
    damaged = path.with_name("pickle.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(damaged, "w") as new:
        for member in old.infolist():
            content = bytearray(old.read(member))
            if member.filename.endswith("data.pkl"):
                content = content[: len(content) - cut]
                for where, byte in changed:
                    content[int(where * (len(content) - 1))] = byte
            new.writestr(member.filename, bytes(content))
    survives(damaged)


def test_what_is_whole_opens(originals):
    assert all(survives(path) for path, _ in originals.values())
