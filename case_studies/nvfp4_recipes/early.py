"""What a short, watched run knew: the first steps of every training of the grid.

A short run is 200 steps, or the first half of a training that is shorter than 400.
"""

from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import grid
from cell import Cell
from training import run_of

from qprobe import records

NAME = "early"

#: The most steps of a short run.
UNTIL = 200


def cells(scale: str) -> list[Cell]:
    """One per training of the grid, called as it is."""
    return [
        Cell(
            stage=NAME,
            key=cell.key,
            settings={"until": min(UNTIL, cell.settings["config"]["steps"] // 2)},
            needs=(cell.name,),
            estimate_s=0.3,
        )
        for cell in grid.cells(scale)
    ]


def measure(cell: Cell, folder: Path) -> dict[str, Any]:
    """Mean training loss of the last 50 of the steps, and medians over layers of what probes saw.

    A layer counts with the mean over its looks, so that a layer looked at more often weighs no
    more; ``layers`` says how many there are. What the recipe leaves in high precision is missing.
    """
    until = int(cell.settings["until"])
    with records.open(run_of(folder, cell.needs[0])) as run:
        losses = [one.value for one in run.records(probe="training", key="loss")]
        found: dict[str, Any] = {"loss": sum(losses[until - 50 : until]) / 50}
        for name, (probe, key) in SEEN.items():
            layers: dict[str, list[float]] = defaultdict(list)
            for one in run.records(probe=probe, key=key, steps=range(1, until + 2)):
                layers[f"{one.site}/{one.role}"].append(one.value)
            means = [sum(values) / len(values) for values in layers.values()]
            if means:
                found[name] = {"median": median(means), "worst": _worst(name, means)}
                found[name]["layers"] = len(means)
    return found


#: Probe and key of what is asked, by the name it has here.
SEEN = {
    "output_noise": ("output_error", "as_it_is.noise_share"),
    "dw_cosine": ("gradient_fidelity", "wgrad.cosine"),
    "dx_cosine": ("gradient_fidelity", "dgrad.cosine"),
    "logit_error_nats": ("attention_logits", "error_proj_nats"),
}
#: Of these small is bad.
_RISING = ("dw_cosine", "dx_cosine")


def _worst(name: str, values: list[float]) -> float:
    return min(values) if name in _RISING else max(values)
