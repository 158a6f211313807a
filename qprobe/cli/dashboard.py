"""``qprobe dashboard``: look at runs in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from qprobe.errors import InputError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def dashboard(  # noqa: PLR0913  (one for each option of the server)
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run files, and folders of them.", show_default="runs"),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A host name to answer to. Repeat it for several."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="First port to try; 0 is any free one.")
    ] = 8050,
    browser: Annotated[
        bool, typer.Option(help="Open a browser, where there is a terminal and a display.")
    ] = True,
    export: Annotated[
        Path | None,
        typer.Option(metavar="REPORT.html", help="Write one HTML file and stop; no server."),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "qprobe",
    base_path: Annotated[
        str, typer.Option(metavar="/PATH/", help="Where a proxy puts the dashboard.")
    ] = "/",
) -> int:
    """Show which layers and which recipes fail.

    New runs appear while it is open.
    """
    from qprobe.dashboard import check_installed, create_app

    check_installed()
    from qprobe.dashboard.server import Address, run, step_back

    shown = list(runs or [Path("runs")])
    if export is not None:
        from qprobe.dashboard.library import Library
        from qprobe.dashboard.report import write

        print(f"wrote {write(Library(shown), export)}")
        return 0
    names = allow_host or []
    if host not in _LOOPBACK and not names:
        raise InputError(
            f"--host {host} lets other machines in, and nothing asks them for a password; say by "
            "which name they may, with --allow-host NAME."
        )
    app = create_app(shown, title=title, base_path=base_path, allow_hosts=names)
    step_back()
    run(app, Address(host=host, port=port, browser=browser), _say)
    return 0


def _say(line: str) -> None:
    # A program that starts this one reads the address from a pipe: it must not wait in a buffer.
    print(line, flush=True)
