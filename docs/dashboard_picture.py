"""Photograph docs/dashboard.png: the layers of the demo's model in four bits, in a real browser.

Run by `make docs`. It uses the run of `make demo` in runs/demo and trains it where it is not there.
What it shows of each layer is measured anew, by probes on the demo's model under int4-tensor; an
analysis that lies beside the run (`qprobe analyze`) is shown with it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from playwright.sync_api import expect, sync_playwright
from werkzeug.serving import make_server

import qprobe
from qprobe import records
from qprobe.dashboard import create_app
from qprobe.engine import reopen
from qprobe.engine.losses import bce_tversky
from qprobe.records import RunInfo

DOCS = Path(__file__).parent
PICTURE = DOCS / "dashboard.png"
WIDE, HIGH = 1440, 900
RECIPE = "int4-tensor"
#: A picture in a README is loaded with it.
MOST_BYTES = 300_000
FLAGS = ("--disable-gpu", "--font-render-hinting=none")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--run", type=Path, default=Path("runs/demo"))
    options.add_argument("--out", type=Path, default=PICTURE)
    chosen = options.parse_args()
    program = os.environ.get("QPROBE_CHROMIUM") or shutil.which("chromium")
    if program is None:
        sys.exit("no chromium: install it, or name one in QPROBE_CHROMIUM")
    if not (chosen.run / "best.pt").exists():
        command = [sys.executable, str(DOCS / "demo.py"), "--out", str(chosen.run)]
        subprocess.run(command, check=True)
    watched = watch(chosen.run.resolve())
    with served(chosen.run) as base:
        taken = photograph(f"{base}/layers?run={watched.parent.name}/{watched.stem}", program)
    if len(taken) > MOST_BYTES:
        sys.exit(f"the picture has {len(taken):,} bytes, more than {MOST_BYTES:,}")
    chosen.out.write_bytes(taken)
    print(f"wrote {chosen.out}, {len(taken):,} bytes")


def watch(folder: Path, batches: int = 8) -> Path:
    """Measure every layer of the trained model under the recipe; its weights stay as they are."""
    path = folder / f"{RECIPE}.qprobe"
    bench = reopen(folder / "best.pt")
    qprobe.convert(bench.model, RECIPE, layers="all")
    with records.open(folder / "run.qprobe") as run:
        source = run.meta.run
    path.unlink(missing_ok=True)
    about = RunInfo(config={"recipe": RECIPE}, environment={}, recipe=RECIPE, source=source)
    torch.manual_seed(0)
    with records.create(path, about) as writer, qprobe.attach(bench.model, writer, every=1) as look:
        for batch in islice(iter(bench.train), batches):
            bce_tversky(bench.model(batch.image), batch.mask).backward()
            bench.model.zero_grad()
            look.step()
    return path


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, create_app(folder).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def photograph(address: str, program: str) -> bytes:
    """The first screen of a page, in light colours, when all of its charts are drawn."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        page = browser.new_page(
            viewport={"width": WIDE, "height": HIGH}, color_scheme="light", reduced_motion="reduce"
        )
        page.goto(address)
        expect(page.locator("#fingerprint .heatmaplayer image")).to_be_attached(timeout=60_000)
        expect(page.locator("#matrix .heatmaplayer image")).to_be_attached()
        expect(page.locator("#worst a").first).to_be_visible()
        page.evaluate("document.fonts.ready")
        taken = page.screenshot(animations="disabled")
        browser.close()
    return taken


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
