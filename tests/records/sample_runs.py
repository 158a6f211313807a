"""Small runs that the tests of this folder share."""

from typing import Any

import numpy as np

from qprobe.records import Batch, Column, Finding, RunInfo, RunWriter

INFO = RunInfo(config={"arch": "swin", "lr": 1e-4}, environment={"host": "bench"}, recipe="nvfp4")


def columns(count: int, probe: str = "summary") -> list[Column]:
    return [Column(f"blocks.{i // 4}", "input", probe, f"k{i % 4}") for i in range(count)]


def ramp(writer: RunWriter, steps: range, count: int = 10) -> None:
    """Value ``1000·step + column`` for every step, one flush each."""
    layout = writer.layout(columns(count))
    for step in steps:
        writer.records(step, Batch(layout=layout, values=1000.0 * step + np.arange(count)))
        writer.flush()


def finding(**changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "analyzer": "outliers",
        "claim": "blocks.2 loses its small channels",
        "cause": "channel_outlier",
        "severity": "warn",
        "sites": ("blocks.2.qkv",),
        "roles": ("input",),
        "effect": 0.01,
        "unit": "Dice",
        "low": 0.005,
        "high": 0.02,
        "n": 40,
        "control": "the same model in high precision",
        "remedy": "per-channel scales",
        "reference": "docs/concepts/outliers.md",
    }
    return Finding(**{**fields, **changes})
