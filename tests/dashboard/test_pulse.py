from dataclasses import replace
from types import SimpleNamespace

import synthetic_runs

from qprobe.dashboard import create_app
from qprobe.dashboard import library as library_module
from qprobe.dashboard.pulse import pulse_of
from qprobe.records import Status


def test_a_pulse_changes_with_what_is_written_ends_or_vanishes(library):
    runs = library.runs()
    first = runs[0]
    grown = replace(first, stamp=(first.stamp[0], first.stamp[1] + 1, *first.stamp[2:]))
    ended = replace(first, status=Status.INTERRUPTED)
    states = [runs, [grown, *runs[1:]], [ended, *runs[1:]], runs[1:], []]
    assert len({pulse_of(state) for state in states}) == len(states)
    assert pulse_of(runs) == pulse_of(library.runs(now=True))


def test_a_page_asks_for_the_pulse_and_the_age_of_what_was_written_last(sweep, library, tmp_path):
    app = create_app(sweep, base_path="/q/")
    told = app.server.test_client().get("/q/beat")
    assert told.json["pulse"] == pulse_of(library.runs())
    assert 0 <= told.json["age_s"] < 3600
    assert app.server.test_client().get("/q/beat", headers={"Host": "evil"}).status_code == 403
    empty = create_app(tmp_path).server.test_client().get("/beat").json
    assert empty == {"pulse": pulse_of([]), "age_s": None}


def test_who_waits_for_an_update_gets_what_is_there_now(tmp_path, monkeypatch):
    monkeypatch.setattr(library_module, "time", SimpleNamespace(monotonic=lambda: 100.0))
    asks = create_app(tmp_path).server.test_client().get
    before = asks("/beat").json["pulse"]
    synthetic_runs.training(tmp_path / "one.qprobe", full=False)
    # Folders are looked through once a second, and no time has passed.
    assert asks("/beat").json["pulse"] == before
    assert asks("/beat?now").json["pulse"] != before
