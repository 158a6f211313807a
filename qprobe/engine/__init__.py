"""The built-in engine: data, losses, metrics, training, sweeps and their comparison.

What trains is loaded when it is first used, so that comparing runs never imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qprobe.engine.config import OnNonFinite, Precision, Schedule, TrainConfig

if TYPE_CHECKING:
    from qprobe.engine.loop import train
    from qprobe.engine.training import Callback, Training, TrainResult

_TRAINS = {
    "Callback": "qprobe.engine.training",
    "TrainResult": "qprobe.engine.training",
    "Training": "qprobe.engine.training",
    "train": "qprobe.engine.loop",
}

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


def __getattr__(name: str) -> Any:
    if name in _TRAINS:
        return getattr(import_module(_TRAINS[name]), name)
    raise AttributeError(f"module 'qprobe.engine' has no attribute {name!r}")
