"""How fast a checkpoint is judged without data, and in how much memory: one thread.

A checkpoint of equal bfloat16 layers is written to a temporary folder, opened and measured whole
and by sample. The floor is one pass over the same tensors, read from the same file, that finds
their extremes; peak memory is that of a fresh process less what it had before it opened the file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from qprobe import checkpoints
from qprobe.analyzers.weights import Depth, WeightAnalyzer


def write(folder: Path, layers: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for layer in range(layers):
        weight = torch.randn(width, width, generator=generator).mul_(0.02).bfloat16()
        save_file({f"layers.{layer}.weight": weight}, folder / f"{layer}.safetensors")
    where = {f"layers.{n}.weight": f"{n}.safetensors" for n in range(layers)}
    (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def floor(folder: Path) -> None:
    opened = checkpoints.open(folder)
    for name in opened.weights:
        torch.aminmax(opened.source.read(name))


def report(folder: Path, depth: Depth) -> int:
    return sum(1 for _ in WeightAnalyzer().measure_checkpoint(checkpoints.open(folder), depth))


def seconds(call) -> float:  # type: ignore[no-untyped-def]
    start = time.thread_time()
    call()
    return time.thread_time() - start


def peak_mib(folder: Path, depth: str) -> float:
    """Private memory only would be fairer; pages of the mapped file count here while they stay."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak-of", str(folder), "--depth", depth],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def print_peak(folder: Path, depth: Depth) -> None:
    torch.set_num_threads(1)
    before = resident_peak_kib()
    report(folder, depth)
    print((resident_peak_kib() - before) / 1024)


def resident_peak_kib() -> int:
    """From Linux; ``ru_maxrss`` would start from the peak of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--depth", type=Depth, default=Depth.FULL, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak_of:
        print_peak(given.peak_of, given.depth)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, given.layers, given.width)
        elements = given.layers * given.width**2
        floors, spent = [], {depth: [] for depth in Depth}
        for _ in range(given.rounds):
            floors.append(seconds(lambda: floor(folder)))
            for depth, times in spent.items():
                times.append(seconds(lambda depth=depth: report(folder, depth)))
        print(f"{elements:,} elements in {given.layers} bfloat16 layers\n")
        print("| depth | M elements/s | x one pass | peak memory, MiB |\n|---|--:|--:|--:|")
        print(f"| one pass | {elements / median(floors) / 1e6:.0f} | 1.0 | |")
        for depth, times in spent.items():
            ratio = median(t / f for t, f in zip(times, floors, strict=True))
            rate = elements / median(times) / 1e6
            print(f"| {depth} | {rate:.1f} | {ratio:.0f} | {peak_mib(folder, depth):.0f} |")


if __name__ == "__main__":
    main()
