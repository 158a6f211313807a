"""What the data cost: generating a slice, and a batch next to a training step.

Times are CPU milliseconds of this process on one thread, so other load on the machine matters
little; the ratio of a batch to a step is taken within one run. The step is that of a four-stage
convolutional encoder and decoder of width 32 (48 ms at 64 × 64 and batch 16 in FP32 on the machine
the 5 % goal was set on) and is the smallest step that is trained in earnest.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from qprobe.engine import data
from qprobe.engine.data import phantom, phantom3d

BATCH = 16
ROUNDS = 9


def cpu_ms(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median CPU time of an action, after one that does not count."""
    action()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        action()
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times)


class Network(nn.Module):
    def __init__(self, channels: int = 3, width: int = 32, stages: int = 4) -> None:
        super().__init__()
        sizes = [channels] + [width] * stages
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(sizes)
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(width * (1 if i == 0 else 2), width, 4, 2, 1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            for i in range(stages - 1)
        )
        self.last = nn.ConvTranspose2d(2 * width, 1, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for stage in self.down:
            x = stage(x)
            kept.append(x)
        kept.pop()
        for stage in self.up:
            x = torch.cat([stage(x), kept.pop()], 1)
        return self.last(x)


def step_ms(batch: data.Batch) -> float:
    network = Network()
    optimizer = torch.optim.Adamax(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(batch.image), batch.mask).backward()
        optimizer.step()

    return cpu_ms(step)


def loader_ms(slices: data.Dataset, augment: data.AugmentConfig | None) -> float:
    config = data.LoaderConfig(batch=BATCH, shuffle=True, drop_last=True, augment=augment)
    loader = data.Loader(slices, None, config)
    return cpu_ms(lambda: list(loader), rounds=5) / len(loader)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, batch {BATCH}, CPU ms\n")
    print("| image | slice | step | batch | batch, augmented | batch / step | augmented / step |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for image in (64, 128, 256):
            config = data.PhantomConfig(image=image, patients=8, cache=Path(cache))
            slice_ms = cpu_ms(lambda c=config: phantom.patient(c, 0)) / config.slices
            slices = data.load("phantom", config)
            plain, augmented = loader_ms(slices, None), loader_ms(slices, data.AugmentConfig())
            step = step_ms(next(iter(data.Loader(slices, None, data.LoaderConfig(batch=BATCH)))))
            print(
                f"| {image} | {slice_ms:.2f} | {step:.1f} | {plain:.2f} | {augmented:.2f} "
                f"| {plain / step:.1%} | {augmented / step:.1%} |"
            )
        volume = cpu_ms(lambda: phantom3d.volume(data.Phantom3dConfig(), 0))
        print(f"\nA volume of 48³ voxels: {volume:.0f} ms.")


if __name__ == "__main__":
    main()
