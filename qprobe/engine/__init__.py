"""The built-in engine: data, losses, metrics, training, sweeps and their comparison.

What trains is loaded when it is first used, so that comparing runs never imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qprobe.engine.config import OnNonFinite, Precision, Schedule, TrainConfig

if TYPE_CHECKING:
    from qprobe.engine.evaluation import Evaluation, evaluate
    from qprobe.engine.loop import train
    from qprobe.engine.training import Callback, Training, TrainResult
    from qprobe.engine.workbench import Workbench, reopen

# No module may have the name of a function here: once imported, it would stand in its place.
_TRAINS = {
    "Callback": "training",
    "Evaluation": "evaluation",
    "TrainResult": "training",
    "Training": "training",
    "Workbench": "workbench",
    "evaluate": "evaluation",
    "reopen": "workbench",
    "train": "loop",
}

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


def __getattr__(name: str) -> Any:
    if name in _TRAINS:
        return getattr(import_module(f"qprobe.engine.{_TRAINS[name]}"), name)
    raise AttributeError(f"module 'qprobe.engine' has no attribute {name!r}")
