"""Who may talk to the server and what a page may do: Host check, headers, one kind of 404."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from dash import Dash
from flask import Flask, Response, request

from qprobe.dashboard.theme import BOOT

_LOCAL: Final = ("127.0.0.1", "localhost", "::1")


def install(app: Dash, server: Flask, allow_hosts: Sequence[str]) -> None:
    """Guard every request. Call it after the last callback is registered: the policy names them."""
    allowed = {*_LOCAL, *(host.lower() for host in allow_hosts)}
    headers = _headers(_policy(app))

    def guard() -> Response | None:
        if host_name(request.host) not in allowed:
            return _refused("this host name is not allowed; start qprobe with --allow-host NAME.")
        if request.method != "GET" and request.headers.get("Sec-Fetch-Site") == "cross-site":
            return _refused("other sites may not ask.")
        return None

    def dress(response: Response) -> Response:
        response.headers.update(headers)
        return response

    def absent(_: Exception) -> Response:
        return Response("not found", 404, mimetype="text/plain")

    server.before_request(guard)
    server.after_request(dress)
    # Dash raises for a file that it does not have; that is no defect of the server.
    for error in _unknown_files():
        server.register_error_handler(error, absent)


def host_name(header: str) -> str:
    """The name in a Host header, without its port.

    >>> host_name("LOCALHOST:8050"), host_name("[::1]:8050"), host_name("evil@127.0.0.1:1")
    ('localhost', '::1', '')
    """
    try:
        parts = urlsplit(f"//{header}")
        return "" if parts.username is not None else (parts.hostname or "").lower()
    except ValueError:
        return ""


def _unknown_files() -> list[type[Exception]]:
    from dash.exceptions import DependencyException, InvalidResourceError

    return [DependencyException, InvalidResourceError]


def _refused(why: str) -> Response:
    return Response(why, 403, mimetype="text/plain")


def _policy(app: Dash) -> str:
    boot = base64.b64encode(hashlib.sha256(BOOT.encode()).digest()).decode()
    scripts = " ".join(["'self'", f"'sha256-{boot}'", *app.csp_hashes()])
    return "; ".join(
        [
            "default-src 'self'",
            f"script-src {scripts}",
            # Mantine, plotly and AG Grid write styles into the page and take no nonce.
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "form-action 'none'",
        ]
    )


def _headers(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
