"""Timing by ratio: variants in turn, each beside a floor, in one process and one thread.

A round runs every variant once, each after one run of the floor; the round's floor is the median
of those. A variant's ratio is the median over rounds of its time / the round's floor, so whatever
slows the machine for a while slows both. The clock counts this thread's CPU time: other work is
not counted, though it still takes memory bandwidth.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

import qprobe
from qprobe import native

Call = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One variant: what to call, and what to set up around it outside the clock."""

    path: str
    variant: str
    call: Call
    setting: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A variant's median time, and its ratio to the floor: median, lowest and highest round."""

    path: str
    variant: str
    dtype: str
    ms: float
    ratio: float
    lowest: float
    highest: float
    rounds: int


def seconds(call: Call) -> float:
    """CPU time of one call."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def measure(cases: Sequence[Case], floor: Call, rounds: int, dtype: torch.dtype) -> list[Timing]:
    """Time all ``cases`` in ``rounds`` rounds, after one round that does not count."""
    spent: list[list[float]] = [[] for _ in cases]
    floors: list[float] = []
    for counted in [False, *[True] * rounds]:
        beside = []
        for case, times in zip(cases, spent, strict=True):
            beside.append(seconds(floor))
            with case.setting():
                taken = seconds(case.call)
            if counted:
                times.append(taken)
        if counted:
            floors.append(median(beside))
    return [_timing(case, times, floors, dtype) for case, times in zip(cases, spent, strict=True)]


def _timing(
    case: Case, times: Sequence[float], floors: Sequence[float], dtype: torch.dtype
) -> Timing:
    ratios = [taken / floor for taken, floor in zip(times, floors, strict=True)]
    return Timing(
        path=case.path,
        variant=case.variant,
        dtype=str(dtype).removeprefix("torch."),
        ms=median(times) * 1e3,
        ratio=median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        rounds=len(times),
    )


def machine() -> dict[str, str]:
    """What the numbers were measured on, at the moment of the call."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
        "torch": torch.__version__,
        "qprobe": qprobe.__version__,
        "kernels": native.describe(),
    }
