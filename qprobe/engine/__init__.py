"""The built-in engine: data, losses, metrics, training."""

from qprobe.engine.config import OnNonFinite, Precision, Schedule, TrainConfig
from qprobe.engine.evaluate import Evaluation, evaluate
from qprobe.engine.loop import train
from qprobe.engine.training import Callback, Training, TrainResult
from qprobe.engine.workbench import Workbench, reopen

__all__ = [
    "Callback",
    "Evaluation",
    "OnNonFinite",
    "Precision",
    "Schedule",
    "TrainConfig",
    "TrainResult",
    "Training",
    "Workbench",
    "evaluate",
    "reopen",
    "train",
]
