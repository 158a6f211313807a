"""How quick is the dashboard? A real browser on a run of 600 layers × 12 measures.

    python benchmarks/dashboard.py

Each number is the median of several; ``painted`` is from the click or key to the second frame after
the chart changed, ``server`` is inside the callback. A plain round trip to the server is the floor
that every callback pays.
"""

import argparse
import logging
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, expect, sync_playwright
from werkzeug.serving import make_server

from qprobe import records
from qprobe.dashboard import create_app
from qprobe.dashboard.figures.layers import fingerprint
from qprobe.dashboard.layer_detail import layer_detail
from qprobe.dashboard.layer_table import layer_table
from qprobe.dashboard.library import Library
from qprobe.dashboard.pages.live import training
from qprobe.records import Batch, Column, RunInfo, create

LAYERS, MEASURES = 600, 12

# Waits for plotly to say that it has drawn, then for two frames.
PAINTED = """async ([chart, act]) => {
  const node = document.querySelector('#' + chart + ' .js-plotly-plot');
  const frame = () => new Promise(requestAnimationFrame);
  const drawn = new Promise((done) => node.once('plotly_afterplot', done));
  const began = performance.now();
  dash_clientside.set_props(act.id, act.props);
  await drawn; await frame(); await frame();
  return performance.now() - began;
}"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--times", type=int, default=7)
    options.add_argument("--chromium", default=shutil.which("chromium"))
    chosen = options.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.qprobe"
        write(path, steps=140)
        with records.open(path) as reader:
            count = sum(len(series) for _, series in reader.select())
        print(f"{count:,} records, {LAYERS} layers × {MEASURES} measures")
        for name, milliseconds in (*server(path, chosen.times), *browser(path, chosen)):
            print(f"{name:52} {milliseconds:8.1f} ms")


def write(path: Path, steps: int) -> None:
    columns = [
        Column(f"blocks.{layer // 10}.part{layer % 10}", "input", "moments", f"kurtosis_{key}")
        for layer in range(LAYERS)
        for key in range(MEASURES)
    ]
    random = np.random.default_rng(0)
    with create(path, RunInfo(config={"steps": steps}, environment={}, recipe="nvfp4")) as run:
        layout, own = run.layout(columns), run.layout([Column("", "", "training", "loss")])
        for step in range(steps):
            values = random.lognormal(size=len(columns)).astype(np.float32)
            run.records(step, Batch(layout=layout, values=values))
            run.records(step, Batch(layout=own, values=np.array([1.0 / (step + 1)])))
            run.flush()


def server(path: Path, times: int) -> Iterator[tuple[str, float]]:
    def opened(read: Callable[..., object], *question: str) -> Callable[[], object]:
        def once() -> object:
            with records.open(path) as reader:
                return read(reader, *question)

        return once

    with records.open(path) as reader:
        table = layer_table(reader)
    library = Library([path], every_s=0)
    yield "read every layer's last value", median(times, opened(layer_table))
    yield "read one layer", median(times, opened(layer_detail, "blocks.30.part0"))
    yield "build the rank map", median(times, lambda: fingerprint(table, dark=False))
    yield (
        "live tick: look at the folder, read the loss",
        median(times, lambda: (library.runs(now=True), opened(training)())),
    )


def median(times: int, act: Callable[[], object]) -> float:
    act()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


@contextmanager
def served(path: Path) -> Iterator[str]:
    running = make_server("127.0.0.1", 0, create_app(path).server, threaded=True)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()


def browser(path: Path, chosen: argparse.Namespace) -> list[tuple[str, float]]:
    if chosen.chromium is None:
        print("no chromium: the browser's half is left out", file=sys.stderr)
        return []
    with served(path) as base, sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chosen.chromium)
        page = started.new_page(viewport={"width": 1440, "height": 1000})
        expect.set_options(timeout=60_000)
        opening = [load(page, base) for _ in range(3)]
        found = [
            ("page shell to every layer painted, cold", opening[0]),
            ("page shell to every layer painted, warm", statistics.median(opening[1:])),
            ("new rank map of 600 × 12 painted", painted(page, chosen.times)),
            ("drill down to one layer painted", statistics.median(
                drill(page, base, layer) for layer in range(chosen.times)
            )),
        ]  # fmt: skip
        started.close()
    return found


def load(page: Page, base: str) -> float:
    page.goto(f"{base}/layers")
    page.locator("#navigation a").first.wait_for()
    began = time.perf_counter()
    page.locator("#fingerprint .heatmaplayer image").first.wait_for(state="attached")
    return 1000 * (time.perf_counter() - began)


def painted(page: Page, times: int) -> float:
    """The theme changes: the server builds all charts of the page anew."""
    acts = [{"id": "look", "props": {"data": ("dark", "light")[turn % 2]}} for turn in range(times)]
    return statistics.median(page.evaluate(PAINTED, ["fingerprint", act]) for act in acts)


def drill(page: Page, base: str, layer: int) -> float:
    """From the rank map to the page of one layer, by its link."""
    page.goto(f"{base}/layers")
    link = page.locator("#worst a").nth(layer % 10)
    link.wait_for()
    page.wait_for_timeout(500)
    began = time.perf_counter()
    link.click()
    page.locator("#layer-time .scatterlayer path").first.wait_for(state="attached")
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
