import hashlib

import pytest
import torch
from safetensors.torch import save_file

from qprobe import checkpoints
from qprobe.errors import InputError


def test_the_hash_of_a_file_is_that_of_its_bytes(weights, tmp_path):
    torch.save(weights, tmp_path / "m.pt")
    expected = hashlib.sha256((tmp_path / "m.pt").read_bytes()).hexdigest()
    assert checkpoints.open(tmp_path / "m.pt").sha256 == expected


def test_the_hash_of_shards_changes_with_each_of_them(tmp_path):
    index = tmp_path / "m.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}')
    found = set()
    for second in (1.0, 2.0):
        for name, value in (("a", 1.0), ("b", second)):
            save_file({name: torch.tensor(value)}, tmp_path / f"{name}.safetensors")
        found.add(checkpoints.open(index).sha256)
    assert len(found) == 2


def test_a_weight_that_is_not_there_is_said(weights, tmp_path):
    torch.save(weights, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"has no weight 'gone'; it has 6"):
        checkpoints.open(tmp_path / "m.pt").read("gone")
