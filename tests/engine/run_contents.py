"""What a training left behind, without what may differ between two that are the same."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from qprobe import records
from qprobe.engine import checkpoint


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, through tables and lists; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return np.float64(a).tobytes() == np.float64(b).tobytes()
    return bool(a == b)


def weights(folder: Path, name: str = "last.pt") -> dict[str, Any]:
    """A checkpoint without the run that it belongs to, and what callbacks remember, times too."""
    content = checkpoint.load(folder / name)
    return {key: value for key, value in content.items() if key not in ("run", "callbacks")}


def measured(folder: Path) -> dict[str, Any]:
    """Everything in the run file but times."""
    with records.open(folder / "run.qprobe") as run:
        series = {
            key: (part.steps, part.values)
            for (_, _, _, key), part in run.select(probe="training")
            if not key.endswith("_s")
        }
        metrics = [(m.step, m.epoch, m.split, m.name, m.value) for m in run.metrics()]
        samples = [(s.step, s.sample, s.patient, s.name, s.value) for s in run.samples()]
        arrays = {(a.step, a.probe, a.key): a.data.copy() for a in run.arrays()}
        status = run.meta.status
    return {
        "series": series,
        "metrics": metrics,
        "samples": samples,
        "arrays": arrays,
        "status": status,
    }


def differences(one: Path, other: Path) -> list[str]:
    """Where two folders differ."""
    found = []
    for name in ("last.pt", "best.pt"):
        mine, theirs = weights(one, name), weights(other, name)
        found += [f"{name}: {key}" for key in mine if not same(mine[key], theirs.get(key))]
    mine, theirs = measured(one), measured(other)
    return found + [f"run: {key}" for key in mine if not same(mine[key], theirs[key])]
