"""Draw docs/analyze.svg: what `qprobe analyze` says of the demo's checkpoint.

Run by `make docs` after `make demo`; the picture is the report of a run file, not a drawing of one.
"""

import argparse
import re
from io import StringIO
from pathlib import Path

from rich.console import Console

from qprobe.analyzers.report import Report

PICTURE = Path(__file__).with_name("analyze.svg")


def draw(run: Path) -> str:
    """The report of a run file as SVG."""
    console = Console(record=True, width=104, file=StringIO(), highlight=False)
    console.print(Report.read(run).lines())
    svg = console.export_svg(title="qprobe analyze", unique_id="analyze")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # fonts from elsewhere


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "run", type=Path, nargs="?", default=Path("runs/demo/best-int4-tensor.qprobe")
    )
    PICTURE.write_text(draw(options.parse_args().run))
