import logging
import multiprocessing
import re
from pathlib import Path

import pytest
import torch

from qprobe.engine.data import cache

TENSORS = {
    "images": torch.arange(60, dtype=torch.uint8).view(3, 4, 5),
    "masks": torch.tensor([0, 1, 1], dtype=torch.uint8),
}


def forbidden() -> dict[str, torch.Tensor]:
    raise AssertionError("the file should have been used")


def test_what_was_made_once_is_read_afterwards(tmp_path):
    path = tmp_path / "new" / "folder" / "data.safetensors"
    made = cache.cached(path, lambda: TENSORS)
    read = cache.cached(path, forbidden)
    for name, tensor in TENSORS.items():
        assert torch.equal(made[name], tensor)
        assert torch.equal(read[name], tensor)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_every_damaged_byte_is_noticed_and_the_data_are_made_again(tmp_path, caplog):
    """Whatever byte is changed, the data are right; inside the numbers it is also logged."""
    path = tmp_path / "data.safetensors"
    cache.cached(path, lambda: TENSORS)
    whole = path.read_bytes()
    for place in range(len(whole)):
        caplog.clear()
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            read = cache.cached(path, lambda: TENSORS)
        assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items()), place
        if place >= len(whole) - 63:
            assert f"generating {path} again" in caplog.text


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_truncated_file_is_made_again(tmp_path, caplog, keep):
    path = tmp_path / "data.safetensors"
    cache.cached(path, lambda: TENSORS)
    path.write_bytes(path.read_bytes()[:keep])
    with caplog.at_level(logging.WARNING):
        cache.cached(path, lambda: TENSORS)
    assert f"generating {path} again" in caplog.text
    cache.cached(path, forbidden)


def test_an_interrupted_generation_leaves_nothing(tmp_path):
    path = tmp_path / "data.safetensors"

    def interrupted() -> dict[str, torch.Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.cached(path, interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        made = cache.cached(tmp_path / "file" / "data", lambda: TENSORS)
    assert made is TENSORS
    assert re.search(r"is not kept .*file/data cannot be written .*option 'cache'", caplog.text)


def _generate(path: Path) -> None:
    for _ in range(20):
        path.unlink(missing_ok=True)
        read = cache.cached(path, lambda: TENSORS)
        assert torch.equal(read["images"], TENSORS["images"])


def test_processes_that_generate_at_once_do_no_harm(tmp_path):
    path = tmp_path / "data.safetensors"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_generate, args=(path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def test_a_key_changes_with_facts_and_sources(tmp_path):
    source = tmp_path / "source.py"
    source.write_text("a = 1")
    first = cache.key({"x": 1, "y": 2}, (source,))
    assert cache.key({"y": 2, "x": 1}, (source,)) == first
    assert cache.key({"x": 1, "y": 3}, (source,)) != first
    source.write_text("a = 2")
    assert cache.key({"x": 1, "y": 2}, (source,)) != first


def test_the_folder_is_the_given_one_or_in_the_users_cache(tmp_path, monkeypatch):
    assert cache.folder(tmp_path) == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "qprobe"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "home" / ".cache" / "qprobe"


def test_a_file_half_written_never_has_the_final_name(tmp_path, monkeypatch, caplog):
    path = tmp_path / "data.safetensors"
    seen = []

    def disk_full(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        seen.append(path.exists())
        raise OSError("No space left on device")

    monkeypatch.setattr(cache, "save_file", disk_full)
    with caplog.at_level(logging.WARNING):
        cache.cached(path, lambda: TENSORS)
    assert "No space left on device" in caplog.text
    assert seen == [False]
    assert list(tmp_path.iterdir()) == []
