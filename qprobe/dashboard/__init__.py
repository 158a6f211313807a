"""The dashboard: which layers and which recipes fail, explored in a browser.

It reads run files and nothing else: no torch, no model, no writing. Its own packages come with the
extra ``qprobe[dashboard]`` and are imported when it is used.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from os import PathLike
from typing import TYPE_CHECKING

from qprobe.errors import MissingExtraError

if TYPE_CHECKING:
    from dash import Dash

    from qprobe.dashboard.server import Address

_NEEDS = ("dash", "plotly", "dash_mantine_components", "dash_ag_grid", "waitress")


def create_app(
    runs: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    title: str = "qprobe",
    base_path: str = "/",
    allow_hosts: Sequence[str] = (),
) -> "Dash":
    """The dashboard of run files, and of folders in which new ones appear; embed its ``server``.

    It answers to 127.0.0.1 and localhost, and to ``allow_hosts``.
    """
    check_installed()
    from qprobe.dashboard.app import build

    return build(runs, title=title, base_path=base_path, allow_hosts=allow_hosts)


def serve(app: "Dash", address: "Address | None" = None) -> None:
    """Serve until Ctrl-C; without an address on the first free port of 127.0.0.1 from 8050."""
    from qprobe.dashboard.server import Address, run

    run(app, address or Address())


def check_installed() -> None:
    """Raise where a package of the extra is missing."""
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"the dashboard needs {', '.join(missing)}; install it with: "
            "pip install 'qprobe[dashboard]'"
        )
