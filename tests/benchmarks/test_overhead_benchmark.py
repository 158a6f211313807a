import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def output():
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "overhead.py", "--quick"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.stdout


def rows(output, title):
    table = output.split(f"### {title}", 1)[1].split("###", 1)[0]
    lines = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[1:]}


@pytest.mark.parametrize("title", ["ViT float32", "ViT bfloat16", "CNN float32"])
def test_every_table_has_the_floor_and_both_implementations(output, title):
    found = rows(output, title)
    assert found["one torch.sum a tensor"][1] == "1.0"
    for name in ("qprobe, native", "qprobe, PyTorch", "qprobe, PyTorch, moments"):
        assert float(found[name][1]) > 1.0  # nothing is faster than the floor


def test_goals_stand_beside_what_was_measured(output):
    verdicts = rows(output, "ViT float32")["qprobe, native"][-1].split("; ")
    assert [one.rpartition(" ")[0] for one in verdicts] == ["4", "0.6", "floor x 6"]
    assert all(one.endswith(("met", "missed")) for one in verdicts)


def test_what_looks_seldom_is_shared_by_more_steps(output):
    found = rows(output, "ViT float32")
    for name, every in (("attention", 10), ("block_scales", 100)):
        shown, one_in, seldom = (float(found[name][i].split()[0]) for i in (0, 4, 5))
        assert one_in == every
        assert seldom == pytest.approx(shown / every, rel=0.01)


def test_kurtosis_and_memory_keep_to_their_goals(output):
    lines = [line for line in output.splitlines() if line.startswith("- ")]
    accurate = [line for line in lines if "relative error of kurtosis" in line]
    assert len(accurate) in (2, 4)
    assert all(line.endswith("met)") for line in accurate)
    (memory,) = (line for line in lines if "768 channels" in line)
    assert float(memory.split(": ")[1].split()[0]) <= 64.0
    assert memory.endswith("(goal: 64 met)")


def test_peers_compute_what_they_say(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from overhead_peers import int4, moments, nvfp4, weights_and_biases

    x = torch.tensor([[0.0, 7.0, -3.0, 6.9]])
    assert int4(x).item() == pytest.approx(0.01, rel=1e-4)
    block = torch.tensor([6.0, 0.1, -3.0, 2.2] + [0.0] * 12)
    error, lost = nvfp4(block)
    assert error.item() == pytest.approx(0.1**2 + 0.2**2, rel=1e-3)
    assert lost.item() == 1
    normal = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    skewness, kurtosis, largest, zeros = moments(normal, None)
    assert skewness.item() == pytest.approx(0.0, abs=0.05)
    assert kurtosis.item() == pytest.approx(3.0, abs=0.1)
    assert largest == normal.abs().max()
    assert zeros == 0
    assert sum(weights_and_biases(normal)) == 100_000
    assert weights_and_biases(torch.ones(3)) is None


def test_one_look_in_ten_has_an_interval(output):
    (line,) = (one for one in output.splitlines() if one.startswith("- one look in ten steps"))
    middle, low, high = (float(one) for one in re.findall(r"-?\d+\.\d+", line)[:3])
    assert low <= middle <= high


def test_end_to_end_counts_a_look_the_step_after_it_and_eight_not_due(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from overhead_end_to_end import Unit, end_to_end

    units = [Unit(plain=2.0, look=2.3, after=2.1, collecting=0.1)] * 9
    units += [Unit(plain=2.0, look=9.0, after=2.0, collecting=0.0)]  # a stall is trimmed
    found = end_to_end(units, idle_s=0.05)
    assert found.middle == pytest.approx(100 * (0.3 + 0.1 + 8 * 0.05) / 20)
    assert found.mean > found.middle
    assert found.collected == 9
