"""What a page is answered when it follows a run, asked as a browser asks."""

import json
import re
from functools import partialmethod

import numpy as np
import pytest
import synthetic_runs

from qprobe.dashboard import create_app
from qprobe.dashboard.library import Library
from qprobe.dashboard.pages import live
from qprobe.records import Batch, Column, Metric, RunInfo, create

COLUMN = Column("", "", "training", "loss")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A training under way; call it with a step to write one, which is seen at once."""
    monkeypatch.setattr(Library, "runs", partialmethod(Library.runs, now=True))
    info = RunInfo(config=synthetic_runs.config("nvfp4", 0), environment={}, recipe="nvfp4")
    with create(tmp_path / "one.qprobe", info) as writer:
        layout = writer.layout([COLUMN])

        def step(number, *scores):
            writer.records(number, Batch(layout=layout, values=np.array([1.0 / number])))
            writer.metrics([Metric(step=number, split="validation", name="auprc", value=score)
                            for score in scores])  # fmt: skip
            writer.flush()

        yield step


class Tab:
    """Asks the callback that fills the page, and remembers what it has drawn."""

    def __init__(self, app, score="auprc"):
        self._client, self._drawn = app.server.test_client(), None
        (self._output,) = [one for one in app.callback_map if "live-drawn.data" in one]
        self._wanted = app.callback_map[self._output]
        self._known = {"series": "loss", "score": score, "axis": "linear", "look": "light",
                       "live-runs": ["one", ""], "pulse": "new"}  # fmt: skip

    def asks(self, because, **known):
        """The properties that it is told to change; None where there is nothing new."""
        self._known.update(known)
        pairs = [re.fullmatch(r"(.*)\.(\w+)", one) for one in self._output.strip(".").split("...")]
        body = {
            "output": self._output,
            "outputs": [{"id": self._id(one[1]), "property": one[2]} for one in pairs],
            "inputs": [self._filled(one) for one in self._wanted["inputs"]],
            "state": [{"id": "live-drawn", "property": "data", "value": self._drawn}],
            "changedPropIds": [because],
        }
        answer = self._client.post("/_dash-update-component", json=body)
        if answer.status_code == 204:
            return None
        assert answer.status_code == 200, answer.text
        told = answer.json["response"]
        self._drawn = told["live-drawn"]["data"]
        return told

    def _filled(self, wanted):
        name = self._id(wanted["id"])
        known = self._known[name["control"] if isinstance(name, dict) else name]
        return {"id": name, "property": wanted["property"], "value": known}

    @staticmethod
    def _id(name):
        return json.loads(name) if name.startswith("{") else name


def test_only_the_chart_with_something_new_is_sent(written, tmp_path):
    written(1, 0.5)
    tab = Tab(create_app(tmp_path))
    assert {"live-series", "live-scores", "live-facts"} <= tab.asks("live-runs.data").keys()
    assert tab.asks("pulse.data") is None  # nothing was written
    written(2)
    assert tab.asks("pulse.data").keys() & {"live-series", "live-scores"} == {"live-series"}
    written(3, 0.6)
    assert {"live-series", "live-scores"} <= tab.asks("pulse.data").keys()


def test_a_choice_draws_both_charts_whatever_was_written(written, tmp_path):
    written(1, 0.5)
    tab = Tab(create_app(tmp_path))
    tab.asks("live-runs.data")
    assert {"live-series", "live-scores"} <= tab.asks("look.data", look="dark").keys()


def test_what_several_tabs_follow_is_drawn_once(written, tmp_path, monkeypatch):
    drawn = []
    shown = live._shown
    monkeypatch.setattr(live, "_shown", lambda *asked: drawn.append(asked) or shown(*asked))
    written(1, 0.5)
    app = create_app(tmp_path)
    tabs = [Tab(app) for _ in range(5)]
    told = [tab.asks("live-runs.data")["live-series"] for tab in tabs]
    assert len(drawn) == 1
    assert all(one == told[0] for one in told)
    written(2)
    assert all(tab.asks("pulse.data") for tab in tabs)
    assert len(drawn) == 2
    # Another look is another drawing.
    tabs[0].asks("look.data", look="dark")
    assert len(drawn) == 3
