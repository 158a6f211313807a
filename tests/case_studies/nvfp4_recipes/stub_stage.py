"""A stage whose cells take no time: what the frame does is seen without training anything."""

import time
from pathlib import Path

from cell import Cell

NAME = "stub_stage"


def cells(scale):
    long = {"cpu": 1.0, "gpu": 2.0}[scale]
    return [
        Cell(stage=NAME, key="short", settings={"value": 1}, estimate_s=0.1),
        Cell(stage=NAME, key="long", settings={"value": 2}, estimate_s=long),
    ]


def measure(cell, folder):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("a") as log:
        log.write(f"{cell.key}\n")
    if cell.settings.get("fails"):
        raise ValueError("this cell fails on purpose")
    time.sleep(cell.settings.get("sleep_s", 0.0))
    return {"twice": 2 * cell.settings["value"], "third": 1 / 3}


def log(folder: Path) -> list[str]:
    """The cells that were begun, in order."""
    path = folder / "log"
    return path.read_text().splitlines() if path.exists() else []
