"""Kurtosis by a summary against SciPy in float64, where the mean is far from zero."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import stats
from summary import eager

from qprobe import native
from qprobe.probes.summary import Summary

SHAPE = (4096, 256)
OFFSETS = (0.0, 10.0, 100.0)
#: Relative.
GOAL = 1e-4


def error(dtype: torch.dtype, offset: float) -> float:
    """The largest relative error over the tensor and its channels, of three parts merged."""
    torch.manual_seed(0)
    laplace = torch.distributions.Laplace(0.0, 2.0**-0.5).sample(SHAPE)
    x = (laplace + offset).to(dtype)
    summary = Summary(SHAPE[1])
    for part in x.chunk(3):
        summary.observe(part)
    exact = x.double().numpy()
    channels = stats.kurtosis(exact, axis=0, fisher=False)
    tensor = stats.kurtosis(exact.ravel(), fisher=False)
    found = summary.moments()
    worst = np.abs(found.kurtosis().numpy() / channels - 1.0).max()
    return float(max(worst, abs(found.total().kurtosis().item() / tensor - 1.0)))


def kurtosis_errors() -> Iterator[str]:
    """One line for each implementation and type."""
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        with eager():
            yield line(f"PyTorch, {name}", [error(dtype, offset) for offset in OFFSETS])
        if native.kernels is not None:
            yield line(f"native, {name}", [error(dtype, offset) for offset in OFFSETS])


def line(name: str, errors: list[float]) -> str:
    at = ", ".join(f"{e:.0e} at {o:g}" for e, o in zip(errors, OFFSETS, strict=True))
    verdict = "met" if max(errors) <= GOAL else "missed"
    return f"relative error of kurtosis, {name}, mean/std: {at} (goal: {GOAL:g}, {verdict})"
