"""Measure the study: every cell that has no result yet, on a few single-thread workers.

Finished cells are kept in ``results`` beside this file and never run again unless their settings
change; what is stopped goes on where it was. ``render.py`` turns the results into the page.
"""

import argparse
import platform
import signal
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from campaign import Campaign, Place, Work, plan
from cell import SCALES, enumerate_cells

import qprobe
from qprobe import native
from qprobe.errors import QprobeError

#: Every stage, each a module of this folder.
STAGES = (
    "grid",
    "wide",
    "folds",
    "norms",
    "early",
    "attention",
    "gradient_noise",
    "curvature",
)


def main(arguments: list[str] | None = None) -> int:
    """What the command line asks for; the exit code."""
    options = _options(arguments)
    place = Place(scale=options.scale, out=options.out, stored=options.results)
    cells = enumerate_cells(STAGES, options.scale)
    asked = {
        name
        for name, cell in cells.items()
        if cell.stage in (options.only or STAGES) and fnmatchcase(name, options.match)
    }
    work = plan(cells, asked, place, again=options.again)
    if options.dry_run or not work.due:
        print(_overview(work))
        return 0
    campaign = Campaign(work, place, machine())
    limit_s = None if options.limit_minutes is None else 60 * options.limit_minutes
    # A job of a shell in the background ignores Ctrl-C; asked to end, it stops as cleanly.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        complete = campaign.run(options.workers, options.threads, limit_s)
    except KeyboardInterrupt:
        print("Stopped. What is finished is kept; run again to go on.", file=sys.stderr)
        return 130
    if campaign.failed:
        print(f"{len(campaign.failed)} cells failed: {', '.join(campaign.failed)}", file=sys.stderr)
    return 0 if complete else 1


def machine() -> Mapping[str, Any]:
    """What a result may depend on besides its settings."""
    cuda = torch.cuda.is_available()
    return {
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "qprobe": qprobe.__version__,
        "kernels": native.describe(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _overview(work: Work) -> str:
    """Every due cell with its estimate, and the sum; the stages in the order of the study."""
    lines = [
        f"{name:<44} {work.cells[name].estimate_s / 60:6.2f} min"
        for name in work.cells
        if name in work.due
    ]
    return "\n".join(
        [
            *lines,
            f"{len(work.due)} of {len(work.cells)} cells are due: about "
            f"{work.estimate_s / 60:.0f} minutes of one core.",
        ]
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="Processes at a time.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of each of them.")
    parser.add_argument("--only", nargs="+", choices=STAGES, help="These stages and their needs.")
    parser.add_argument("--match", default="*", help="Cells of this name, as in 'grid/swin-*-s0'.")
    parser.add_argument("--again", action="store_true", help="Measure what is measured already.")
    parser.add_argument("--dry-run", action="store_true", help="Say what would be measured.")
    parser.add_argument("--limit-minutes", type=float, help="Stop after so many minutes.")
    parser.add_argument("--out", type=Path, default=Path("runs/cases/nvfp4_recipes"))
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QprobeError as error:
        sys.exit(f"error: {error}")
