"""A real Chromium that fails a test on console errors, external requests and failed responses."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import synthetic_runs
from werkzeug.serving import WSGIRequestHandler, make_server

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

VIEW = {"width": 1440, "height": 1000}
#: How long something may take to appear; a busy machine needs it, a quick one never waits.
PATIENCE_MS = 120_000
#: Nothing but this machine has an address, so an asset from elsewhere fails on every machine.
FLAGS = (
    "--disable-gpu",
    "--font-render-hinting=none",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    # One process for all tabs: what one has compiled of plotly, the next need not compile again.
    "--renderer-process-limit=1",
)
#: Who waits for seconds waits for a tenth of them, so that a page asks ten times as often whether
#: something changed. From ten seconds on nothing is hurried: what gives up, and a slow page.
HURRY = """(() => {
  const wait = window.setTimeout;
  window.setTimeout = (act, ms, ...more) =>
    wait(act, ms >= 1000 && ms < 10000 ? ms / 10 : ms, ...more);
})()"""

#: Goes to an address of this dashboard without loading it anew.
VISIT = """(url) => {
  history.pushState({}, "", url);
  window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
}"""


@pytest.fixture(scope="session")
def chromium() -> Iterator["sync_api.Browser"]:
    program = os.environ.get("QPROBE_CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium; install it, or name one in QPROBE_CHROMIUM")
    sync_api.expect.set_options(timeout=PATIENCE_MS)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def context(chromium: "sync_api.Browser") -> Iterator["sync_api.BrowserContext"]:
    """One context for all tests: what the browser has cached stays cached."""
    found = chromium.new_context(
        viewport=VIEW, reduced_motion="reduce", locale="en-GB", timezone_id="UTC"
    )
    found.set_default_timeout(PATIENCE_MS)
    yield found
    found.close()


class KeepingHandler(WSGIRequestHandler):
    """Answers all of a page's questions on few connections, as the dashboard's own server does."""

    protocol_version = "HTTP/1.1"


@pytest.fixture(scope="session")
def served() -> Iterator[Callable[[Path], str]]:
    """Serve the runs at a path; the address of the dashboard."""
    from qprobe.dashboard import create_app

    servers = []

    def start(path: Path) -> str:
        server = make_server(
            "127.0.0.1", 0, create_app(path).server, threaded=True, request_handler=KeepingHandler
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three recipes with an analysis."""
    return synthetic_runs.folder(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def base(served: Callable[[Path], str], sweep: Path) -> str:
    return served(sweep)


def watch(page: "sync_api.Page") -> list[str]:
    """The list of what went wrong in a page, filled as it happens."""
    wrong: list[str] = []

    def console(message: "sync_api.ConsoleMessage") -> None:
        if message.type == "error":
            wrong.append(f"console: {message.text}")

    def request(asked: "sync_api.Request") -> None:
        parts = urlsplit(asked.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            wrong.append(f"external request: {asked.url}")

    def response(given: "sync_api.Response") -> None:
        if given.status >= 400:
            wrong.append(f"{given.status}: {given.url}")

    page.on("console", console)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", request)
    page.on("response", response)
    return wrong


class Kept:
    """The tab that one test leaves to the next: what it has loaded need not be loaded again."""

    def __init__(self, context: "sync_api.BrowserContext") -> None:
        self._context = context
        self._tab: sync_api.Page | None = None
        self._wrong: list[str] = []

    def tab(self) -> "sync_api.Page":
        if self._tab is None:
            self._tab = self._context.new_page()
            self._wrong = watch(self._tab)
        self._tab.set_viewport_size(VIEW)
        return self._tab

    def went_wrong(self) -> list[str]:
        """Since it was asked last."""
        found = list(self._wrong)
        self._wrong.clear()
        return found

    def close(self) -> None:
        if self._tab is not None:
            self._tab.close()
        self._tab = None


@pytest.fixture(scope="session")
def kept(context: "sync_api.BrowserContext") -> Iterator[Kept]:
    found = Kept(context)
    yield found
    found.close()


@pytest.fixture
def page(kept: Kept, request: pytest.FixtureRequest) -> Iterator["sync_api.Page"]:
    """A tab in which nothing may go wrong; it may show what the test before has left."""
    failed = request.session.testsfailed
    yield kept.tab()
    wrong = kept.went_wrong()
    if wrong or request.session.testsfailed > failed:
        kept.close()
    assert wrong == []


@pytest.fixture
def visit(page: "sync_api.Page") -> Callable[[str], None]:
    """Goes to an address, in place where the tab shows this dashboard already."""

    def go(address: str) -> None:
        here, there = urlsplit(page.url), urlsplit(address)
        if here.netloc != there.netloc:
            page.goto(address)
            return
        page.evaluate("() => document.activeElement.blur()")
        page.mouse.move(0, 0)
        # Over a page that is none, so that nothing of what was shown is taken for what comes.
        page.evaluate(VISIT, "/nowhere")
        sync_api.expect(page.locator("#page > .empty")).to_contain_text("no page /nowhere")
        page.evaluate(VISIT, address)

    return go


@pytest.fixture
def hurried(kept: Kept, context: "sync_api.BrowserContext") -> Iterator["sync_api.Page"]:
    """A new tab beside no other, in which seconds are tenths of them for who waits."""
    kept.close()
    tab = context.new_page()
    tab.add_init_script(HURRY)
    wrong = watch(tab)
    yield tab
    tab.close()
    assert wrong == []
