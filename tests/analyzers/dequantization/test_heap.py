"""What the allocator does is seen in the page faults of a process of its own."""

import gc
import platform
import subprocess
import sys

import pytest
import torch

from qprobe.analyzers.dequantization.heap import keep_freed_memory, long_lived

#: Four blocks of 6 MiB again and again: freed together they are more than glibc keeps by itself.
#: So often that a heap which once more has to grow does not count.
LOOP = """
import resource, torch
{first}
def once():
    kept = [torch.empty(6 * 2**20, dtype=torch.uint8).fill_(1) for _ in range(4)]
    del kept
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(32):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
CALL = "from qprobe.analyzers.dequantization import heap; heap.keep_freed_memory()"


def faults(first: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", LOOP.format(first=first)], capture_output=True, check=True, text=True
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how glibc keeps memory")
def test_memory_that_is_freed_is_not_fetched_page_by_page_again():
    assert faults(CALL) < 0.25 * faults("")


def test_other_systems_are_left_alone(monkeypatch):
    made = []
    monkeypatch.setattr(torch, "empty", lambda *size, **how: made.append(size))
    keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_freed_memory()
    assert len(made) == (platform.system() == "Linux")


def test_what_was_there_before_is_not_visited_inside_and_is_after():
    old = [[] for _ in range(1000)]
    with long_lived():
        assert gc.get_freeze_count() > 1000
        assert not any(one is old[7] for one in gc.get_objects())
        new: list[object] = []
        new.append(new)
        del new
        assert gc.collect() >= 1  # garbage that is made inside is still found
    assert gc.get_freeze_count() == 0
    assert any(one is old[7] for one in gc.get_objects())


def test_objects_that_somebody_else_spared_stay_spared():
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with long_lived():
            assert gc.get_freeze_count() == before
        assert gc.get_freeze_count() == before
    finally:
        gc.unfreeze()
