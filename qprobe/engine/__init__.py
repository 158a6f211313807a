"""The built-in engine: data, losses, metrics, training."""

from qprobe.engine.config import OnNonFinite, Precision, Schedule, TrainConfig
from qprobe.engine.loop import train
from qprobe.engine.training import Callback, Training, TrainResult

__all__ = [
    "Callback",
    "OnNonFinite",
    "Precision",
    "Schedule",
    "TrainConfig",
    "TrainResult",
    "Training",
    "train",
]
