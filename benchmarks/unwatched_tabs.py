"""Tabs of a browser that nobody watches: what opens a page for a test also looks at all it does."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

SIZE = {"width": 1440, "height": 1000}
PATIENCE_MS = 120_000
#: A browser of its own: nothing that it does by itself should be taken for what a page does.
_QUIET = (
    "--headless=new", "--no-first-run", "--disable-sync", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tabs:
    """The process that all others of the browser descend from, and where it can be asked."""

    process: int
    address: str

    def ask(self, question: str) -> list[str]:
        """The answer of every page to a piece of JavaScript."""
        with _connected(self.address) as browser:
            return [str(page.evaluate(question)) for page in _pages(browser)]


@contextmanager
def opened(chromium: str, urls: Sequence[str], ready: str, folder: Path) -> Iterator[Tabs]:
    """A window for each address, in view, and let go once ``ready`` is in all of them."""
    size = f"--window-size={SIZE['width']},{SIZE['height']}"
    # Its sandbox needs more than a container grants; it opens nothing but the addresses given.
    own = (f"--user-data-dir={folder}", size, "--no-sandbox", "about:blank")
    process = subprocess.Popen(
        [chromium, *_QUIET, *own], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        tabs = Tabs(process=process.pid, address=_address(process, folder / "DevToolsActivePort"))
        with _connected(tabs.address) as browser:
            for url in urls:
                _open(browser, url).locator(ready).first.wait_for(
                    state="attached", timeout=PATIENCE_MS
                )
        yield tabs
    finally:
        process.terminate()
        process.wait()


def _open(browser: Browser, url: str) -> Page:
    session = browser.new_browser_cdp_session()
    with browser.contexts[0].expect_page() as page:
        session.send("Target.createTarget", {"url": url, "newWindow": True, **SIZE})
    session.detach()
    return page.value


@contextmanager
def _connected(address: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.connect_over_cdp(address)
        yield browser
        browser.close()  # lets go of it: the pages stay


def _pages(browser: Browser) -> list[Page]:
    return [page for page in browser.contexts[0].pages if page.url.startswith("http")]


def _address(process: "subprocess.Popen[bytes]", told: Path) -> str:
    end = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < end and process.poll() is None:
        if told.is_file() and (port := told.read_text().partition("\n")[0]):
            return f"http://127.0.0.1:{port}"
        time.sleep(0.05)
    raise RuntimeError(f"the browser said nothing of a port in {told}")


def computed(*roots: int) -> Callable[[], float]:
    """CPU seconds so far of some processes and of all that descend from them now (Linux).

    A clock of the kernel for each (``CPUCLOCK_SCHED`` in posix-timers.h): half a microsecond to
    read, and exact where /proc counts in hundredths of a second.
    """
    clocks = [(~process << 3) | 2 for process in _descendants(roots)]
    return lambda: sum(map(time.clock_gettime_ns, clocks)) / 1e9


def _descendants(roots: Sequence[int]) -> list[int]:
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            told = place.read_text()
        except OSError:
            continue  # it ended while we looked
        parents[int(place.parent.name)] = int(told.rpartition(")")[2].split()[1])
    found = list(roots)
    for process in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == process]
    return found
