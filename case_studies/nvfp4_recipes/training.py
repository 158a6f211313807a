"""Trainings of the study: one set of settings, probes attached, resumable, one folder each."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qprobe import records
from qprobe.engine import TrainConfig, TrainResult
from qprobe.engine import train as run_training
from qprobe.errors import QprobeError
from qprobe.integrations.builtin import ProbeCallback

BEST, LAST, RUN = "best.pt", "last.pt", "run.qprobe"


def train(settings: Mapping[str, Any], folder: Path) -> Path:
    """Train, or go on, or find it finished; the checkpoint with the best validation score.

    ``settings`` has ``config``, the settings of a training as ``qprobe train`` takes them, and may
    have ``probes``, ``every`` and ``budget`` as the command line has them. What another training
    left in ``folder`` is deleted. Ctrl-C saves and raises.
    """
    trained(settings, folder)
    return folder / BEST


def trained(settings: Mapping[str, Any], folder: Path) -> TrainResult:
    """:func:`train`, with the scores."""
    config = TrainConfig.of(settings["config"])
    if not _is_of(folder, config):
        shutil.rmtree(folder, ignore_errors=True)
    watch = ProbeCallback(
        settings.get("probes", ()),
        every=settings.get("every", 10),
        budget=settings.get("budget", "none"),
    )
    result = run_training(config, folder, callbacks=[watch], resume=True)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status != "finished":
        raise QprobeError(f"the training in {folder} stopped: {result.reason}.")
    return result


def is_trained(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the checkpoint of a finished training with these settings is there."""
    if not _is_of(folder, TrainConfig.of(settings["config"])) or not (folder / BEST).is_file():
        return False
    with records.open(folder / RUN) as run:
        return run.meta.status == "finished"


def best(folder: Path, name: str) -> Path:
    """The checkpoint of the training cell ``name`` in the folder that a stage is given."""
    return folder / name / BEST


def run_of(folder: Path, name: str) -> Path:
    """The run file of the training cell ``name``."""
    return folder / name / RUN


def _is_of(folder: Path, config: TrainConfig) -> bool:
    if not (folder / RUN).is_file():
        return False
    with records.open(folder / RUN) as run:
        return bool(run.meta.config.get("hash") == config.hash)
