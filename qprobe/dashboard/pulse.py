"""A word for the state of some runs: pages are drawn again when it changes."""

import time
from collections.abc import Sequence

from dash import Dash
from flask import Response, jsonify, request

from qprobe.dashboard.library import Library, Run


def pulse_of(runs: Sequence[Run]) -> str:
    """It changes when a run appears, is written to, ends or vanishes."""
    return str(hash(tuple((run.name, run.stamp, run.status) for run in runs)))


def answer(app: Dash, library: Library) -> None:
    """Tells at ``/beat`` the word for all runs, and how old the last thing is that was written.

    Not a callback: what every open page asks again and again has to cost the page nothing. With
    ``?now`` somebody waits for it, and the folders are looked through whenever that was last.
    """

    def beat() -> Response:
        runs = library.runs(now="now" in request.args)
        newest = max((run.changed_s for run in runs), default=None)
        # Seconds ago, not a time of day: another machine has another clock.
        age_s = None if newest is None else max(0.0, time.time() - newest)
        return jsonify(pulse=pulse_of(runs), age_s=age_s)

    path = f"{app.config.routes_pathname_prefix}beat"
    app.server.add_url_rule(path, "qprobe-beat", beat, methods=["GET"])
