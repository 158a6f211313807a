"""Does looking at a training slow it down? A writer beside a dashboard that five tabs follow.

    python benchmarks/writer_beside_tabs.py

Linux. A run grows by a step after every 10 ms of computing. First five *clients* ask the server
what tabs ask, which is what the dashboard costs where the browser is on another machine; then five
*tabs* of a browser on the same cores follow it, each a window of its own and in view, watched by
nobody. What is timed is each flush; ``beside.py`` says how it is compared. At the end every tab is
asked how old the step is that it shows: tabs that draw nothing cost nothing.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from beside import Pieces, Slower, slower
from growing_run import Flush, Written
from playwright.sync_api import Request, sync_playwright
from unwatched_tabs import Tabs, computed, opened

TABS = 5
#: Tabs that were just opened draw at once, and then in turn within half a minute.
SETTLED_S = 40.0
#: What tabs ask at most, whatever a drawing costs them.
BEAT_S = 2.0
#: A page says that it follows every 30 s at the slowest, and a tenth more keeps tabs apart.
OLDEST_S = 35.0
#: Where a file waits for no disk, whose stalls of 40 ms would hide what tabs do to a flush of 1 ms.
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
DRAWN = "#live-series .scatterlayer path"
SHOWN = """() => JSON.stringify([document.visibilityState,
  document.querySelector('#live-facts').innerText.match(/(\\d+) of/)[1]])"""

# Asks what tabs ask, as often, in a process of its own.
CLIENTS = """
import json, sys, threading, time, urllib.request
asked, tabs, apart = json.loads(sys.argv[1])
def follow(late):
    time.sleep(late)
    while True:
        for url, body in asked:
            told = {"Content-Type": "application/json"}
            data = body and body.encode()
            urllib.request.urlopen(urllib.request.Request(url, data, told)).read()
        time.sleep(apart)
for number in range(tabs):
    threading.Thread(target=follow, args=(number * apart / tabs,)).start()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Flushes beside some company: their median, how much slower they were, what company took."""

    beside: str
    flush_ms: float
    wall: Slower
    cpu: Slower
    of_a_core: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=120.0, help="of each watch")
    options.add_argument("--chromium", default=shutil.which("chromium"))
    chosen = options.parse_args()
    if chosen.chromium is None:
        sys.exit("no chromium: install it, or name one with --chromium")
    for line in told(chosen.chromium, chosen.seconds):
        print(line, flush=True)


def told(chromium: str, seconds: float = 120.0) -> Iterator[str]:
    """What is measured, in lines."""
    for found in watched(chromium, seconds):
        yield (
            f"a writer's flush of 7,201 values beside {found.beside}: {found.flush_ms:.2f} ms, "
            f"{_percent(found.wall)} slower, in CPU time {_percent(found.cpu)}; "
            f"they take {100 * found.of_a_core:.1f} % of a core (goal: 2 % slower at most)"
        )


def _percent(found: Slower) -> str:
    share, low, high = (100 * one for one in (found.share, found.low, found.high))
    return f"{share:.1f} % ({low:.1f} to {high:.1f})"


def watched(chromium: str, seconds: float) -> Iterator[Watched]:
    """A writer beside clients of the server, and beside tabs that follow it."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        runs, profile = Path(place, "runs"), Path(place, "browser")
        runs.mkdir()
        with Written(runs / "run.qprobe") as writer, apart(runs) as (base, server):
            writer.go_on(3.0)
            # Clients only stand for tabs: what they compute themselves is not asked about.
            with clients(questions(chromium, base, writer)):
                writer.go_on(5.0)
                company = computed(server)
                before, flushes = company(), writer.go_on(seconds, company)
                yield compared(f"{TABS} clients of a server", flushes, company() - before)
            with opened(chromium, [f"{base}/live"] * TABS, DRAWN, profile) as tabs:
                writer.go_on(SETTLED_S)
                company = computed(server, tabs.process)
                before, flushes = company(), writer.go_on(seconds, company)
                taken = company() - before
                check_following(tabs, flushes)
                yield compared(f"{TABS} tabs in view", flushes, taken)


def compared(beside: str, flushes: Sequence[Flush], taken_s: float) -> Watched:
    def pieces(taken: Sequence[float]) -> Pieces:
        return Pieces(
            at_s=np.array([one.at_s for one in flushes]),
            taken_s=np.array(taken),
            company_s=np.array([one.company_s for one in flushes]),
            kind=np.array([one.kind for one in flushes]),
        )

    return Watched(
        beside=beside,
        flush_ms=1000 * statistics.median(one.wall_s for one in flushes),
        wall=slower(pieces([one.wall_s for one in flushes])),
        cpu=slower(pieces([one.cpu_s for one in flushes])),
        of_a_core=taken_s / (flushes[-1].at_s - flushes[0].at_s),
    )


def check_following(tabs: Tabs, flushes: Sequence[Flush]) -> None:
    """Every tab is in view, and shows a step that was written not long ago."""
    now, written = time.perf_counter(), {one.step: one.at_s for one in flushes}
    for answer in tabs.ask(SHOWN):
        state, step = json.loads(answer)
        age = now - written.get(int(step), float("-inf"))
        if state != "visible" or age > OLDEST_S:
            raise RuntimeError(
                f"a {state} tab shows step {step}, {age:.0f} s old: it does not follow"
            )


def questions(chromium: str, base: str, writer: Written) -> list[tuple[str, str | None]]:
    """What a tab that follows a run asks: whether something changed, and what is new."""
    found: dict[str, tuple[str, str | None]] = {}

    def keep(asked: Request) -> None:
        body = asked.post_data
        if asked.url.endswith("/beat"):
            found["beat"] = asked.url, None
        elif '"changedPropIds":["pulse.data"]' in (body or ""):
            found["live"] = asked.url, body

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page()
        page.on("request", keep)
        page.goto(f"{base}/live")
        page.locator(DRAWN).first.wait_for(state="attached")
        page.wait_for_timeout(3000)  # for its first question, which an answer has to differ from
        writer.go_on(1.0)
        page.locator("#refresh").click()
        page.wait_for_timeout(3000)
        browser.close()
    if len(found) != 2:
        raise RuntimeError(f"a tab that follows a run asks two questions, seen: {found}")
    return list(found.values())


@contextmanager
def clients(asked: list[tuple[str, str | None]]) -> Iterator[None]:
    told = json.dumps([asked, TABS, BEAT_S])
    process = subprocess.Popen([sys.executable, "-c", CLIENTS, told])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def apart(folder: Path) -> Iterator[tuple[str, int]]:
    """The dashboard as people have it: a process of its own."""
    words = ["-m", "qprobe", "dashboard", str(folder), "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        told = next(line for line in process.stdout or () if "http://" in line)
        yield "http://" + told.partition("http://")[2].split()[0].rstrip("/"), process.pid
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
