"""How quick is the dashboard? A real browser on a run of 600 layers × 12 measures.

    python benchmarks/dashboard.py

Times of the browser are taken in the page: from the click or the change until the second frame
after the chart is there, everything in between included. Beside each stands what the page's main
thread computed for it, which other work on the machine does not change. Medians; the wall time says
whether a goal is met. The last part is ``writer_beside_tabs.py``: whether looking on slows
a training down.
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
from dataclasses import dataclass
from pathlib import Path

from growing_run import LAYERS, MEASURES, write
from playwright.sync_api import Browser, Page, sync_playwright
from werkzeug.serving import make_server
from writer_beside_tabs import told

from qprobe import records
from qprobe.dashboard import create_app
from qprobe.dashboard.figures.layers import fingerprint
from qprobe.dashboard.layer_detail import layer_detail
from qprobe.dashboard.layer_table import layer_table
from qprobe.dashboard.library import Library
from qprobe.dashboard.pages.live import training

PATIENCE_MS = 120_000

# Runs in every page from its start: when the frame and the first map are there.
WATCH = """(() => {
  const seen = (window.seen = {});
  const wanted = { shell: "#navigation a", map: "#fingerprint .heatmaplayer image" };
  function look() {
    for (const [name, one] of Object.entries(wanted)) {
      if (!(name in seen) && document.querySelector(one)) seen[name] = performance.now();
    }
    if (!("map" in seen)) requestAnimationFrame(look);
  }
  requestAnimationFrame(look);
})()"""

# Acts, waits until plotly has drawn the chart, then for two frames.
REDRAWN = """async ([chart, id, props]) => {
  const node = document.querySelector('#' + chart + ' .js-plotly-plot');
  const frame = () => new Promise(requestAnimationFrame);
  const drawn = new Promise((done) => node.once('plotly_afterplot', done));
  const began = performance.now();
  dash_clientside.set_props(id, props);
  await drawn; await frame(); await frame();
  return performance.now() - began;
}"""

# Clicks, waits for a chart of the next page, then for two frames.
FOLLOWED = """async ([link, chart]) => {
  const frame = () => new Promise(requestAnimationFrame);
  const began = performance.now();
  document.querySelectorAll(link[0])[link[1]].click();
  while (!document.querySelector(chart)) await frame();
  await frame(); await frame();
  return performance.now() - began;
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One measurement; ``computed`` is the CPU time of the page's main thread, ``goal`` the aim."""

    name: str
    value: float
    unit: str = "ms"
    computed: float | None = None
    goal: float | None = None

    def __str__(self) -> str:
        computed = "" if self.computed is None else f"{self.computed:.0f}"
        verdict = ""
        if self.goal is not None:
            verdict = f"{self.goal:g} {self.unit} {'met' if self.value <= self.goal else 'MISSED'}"
        return f"{self.name:52} {self.value:9.1f} {self.unit:3} {computed:>8}  {verdict}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--times", type=int, default=9)
    options.add_argument("--chromium", default=shutil.which("chromium"))
    chosen = options.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.qprobe"
        write(path, steps=140)
        with records.open(path) as reader:
            count = sum(len(series) for _, series in reader.select())
        print(f"{count:,} records, {LAYERS} layers × {MEASURES} measures")
        print(f"{'':52} {'measured':>9}     {'main thread':>8}  goal")
        for line in server(path, chosen.times):
            print(line, flush=True)
        if chosen.chromium is None:
            print("no chromium: the browser's part is left out", file=sys.stderr)
            return
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chosen.chromium)
            for line in opened(browser, path, chosen.times):
                print(line, flush=True)
            browser.close()
    for measured in told(chosen.chromium):
        print(measured, flush=True)


def server(path: Path, times: int) -> Iterator[Line]:
    """What the server computes, without a browser."""

    def once(read: Callable[..., object], *question: str) -> Callable[[], object]:
        def answer() -> object:
            with records.open(path) as reader:
                return read(reader, *question)

        return answer

    with records.open(path) as reader:
        table = layer_table(reader)
    library = Library([path], every_s=0)
    for name, act, goal in (
        ("read every layer's last value", once(layer_table), None),
        ("read one layer", once(layer_detail, "blocks.30.part0"), None),
        ("build the rank map", lambda: fingerprint(table, dark=False), None),
        (
            "live tick: look at the folder, read the loss",
            lambda: (library.runs(now=True), once(training)()),
            20.0,
        ),
    ):
        yield Line(name=name, value=median(times, act), goal=goal)


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


class Tab:
    """A page, and what its main thread has computed."""

    def __init__(self, browser: Browser) -> None:
        self.page: Page = browser.new_page()
        self.page.set_viewport_size({"width": 1440, "height": 1000})
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.add_init_script(WATCH)
        self._session = self.page.context.new_cdp_session(self.page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def computed(self) -> float:
        """Milliseconds so far."""
        found = self._session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(one["value"] for one in found if one["name"] == "TaskDuration")

    def evaluate(self, code: str, argument: object) -> tuple[float, float]:
        """What it says it took, and what it computed."""
        before = self.computed()
        return float(self.page.evaluate(code, argument)), self.computed() - before

    def load(self, url: str) -> float:
        """From the frame of the page to the first map in it."""
        self.page.goto(url)
        self.page.wait_for_function("() => 'map' in window.seen")
        return float(self.page.evaluate("() => window.seen.map - window.seen.shell"))


def opened(browser: Browser, path: Path, times: int) -> Iterator[Line]:
    """A run is opened, a map drawn anew, a layer looked at."""
    cold = statistics.median(first(browser, path) for _ in range(3))
    yield Line(name="page shell to every layer painted, cold", value=cold, goal=1500)
    with served(path) as base:
        tab = Tab(browser)
        opening = []
        for _ in range(4):
            opening.append(tab.load(f"{base}/layers"))
            tab.page.wait_for_timeout(2500)
        warm = statistics.median(opening[1:])
        yield Line(name="page shell to every layer painted, again", value=warm, goal=1500)
        yield middle("new rank map of 600 × 12 painted", 150, list(painted(tab, times)))
        yield middle("drill down to one layer painted", 200, list(drilled(tab, base, times)))
        tab.page.close()


def first(browser: Browser, path: Path) -> float:
    """A server that has read nothing, and a browser that has nothing of it."""
    with served(path) as base:
        tab = Tab(browser)
        taken = tab.load(f"{base}/layers")
        tab.page.close()
    return taken


def middle(name: str, goal: float, found: list[tuple[float, float]]) -> Line:
    wall, computed = (statistics.median(one) for one in zip(*found, strict=True))
    return Line(name=name, value=wall, computed=computed, goal=goal)


def painted(tab: Tab, times: int) -> Iterator[tuple[float, float]]:
    """The theme changes: the server builds the charts of the page anew, the ranks first."""
    for turn in range(times):
        look = {"data": ("dark", "light")[turn % 2]}
        yield tab.evaluate(REDRAWN, ["fingerprint", "look", look])
        tab.page.wait_for_timeout(1000)


def drilled(tab: Tab, base: str, times: int) -> Iterator[tuple[float, float]]:
    """From the list of layers to the page of one, by its link."""
    for turn in range(times):
        tab.load(f"{base}/layers")
        tab.page.wait_for_timeout(2500)
        yield tab.evaluate(FOLLOWED, [["#worst a", turn % 10], "#layer-time .scatterlayer path"])


if __name__ == "__main__":
    main()
