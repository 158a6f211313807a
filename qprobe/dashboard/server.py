"""The server: finds a free port, says where it is, and stops cleanly on Ctrl-C."""

import errno
import logging
import os
import socket
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass

from dash import Dash
from waitress.server import create_server

from qprobe.errors import InputError

_log = logging.getLogger(__name__)

_TRIED = 20
_THREADS = 8
#: How far the server stands behind other programs, of 19.
_NICE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen; port 0 is any free one, and a port in use is followed by the next 20."""

    host: str = "127.0.0.1"
    port: int = 8050
    browser: bool = True


def run(app: Dash, address: Address, say: Callable[[str], object] | None = None) -> None:
    """Serve until Ctrl-C; ``say`` is told where, before the first request is answered."""
    listening = bind(address)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}{app.config.requests_pathname_prefix}"
    # It warns of every queued request, and a page asks for a dozen files at once.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    server = create_server(app.server, sockets=[listening], threads=_THREADS)
    (say or _log.info)(f"dashboard on {url} (Ctrl-C stops it)")
    if address.browser and has_display():
        webbrowser.open(url)
    try:
        server.run()
    except KeyboardInterrupt:
        _log.info("the dashboard was stopped")
    finally:
        server.close()


def step_back() -> None:
    """Give way to a training on the same machine: who looks at it can wait for a moment.

    For good and for the whole process, so only a command does it, and no program that embeds the
    dashboard. Where the scheduler weighs sessions first (Linux' autogroups), it holds in its own.
    """
    if hasattr(os, "nice"):
        os.nice(_NICE)


def bind(address: Address) -> socket.socket:
    """A socket on the first free port from the one that was asked for."""
    ports = [0] if address.port == 0 else range(address.port, address.port + _TRIED)
    for port in ports:
        try:
            return _socket(address.host, port)
        except OverflowError:
            break
        except OSError as error:
            if isinstance(error, socket.gaierror) or not _taken(error):
                raise InputError(
                    f"cannot listen on {address.host} port {port}: {error.strerror}; "
                    "choose another --host or --port."
                ) from error
    raise InputError(
        f"no port from {address.port} to {address.port + _TRIED - 1} is free on {address.host}; "
        "choose another with --port, or 0 for any."
    )


def has_display() -> bool:
    """Whether a person at a terminal can see a browser that is opened here."""
    if not sys.stdout.isatty():
        return False
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def _socket(host: str, port: int) -> socket.socket:
    family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind)
    try:
        # Without it a port stays taken for a minute after the server stopped.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
        found.listen(128)
    except BaseException:
        found.close()
        raise
    return found


def _taken(error: OSError) -> bool:
    return error.errno in (errno.EADDRINUSE, errno.EACCES)
