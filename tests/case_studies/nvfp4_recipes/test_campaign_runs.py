"""The frame on a stub: what is due, what is kept, what a failure and an interrupt leave."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import results
import stub_stage
from campaign import Campaign, Place, plan
from cell import Cell, enumerate_cells

STUDY = Path(__file__).parents[3] / "case_studies" / "nvfp4_recipes"
MACHINE = {"device": "cpu"}


@pytest.fixture
def place(tmp_path):
    return Place(scale="cpu", out=tmp_path / "out", stored=tmp_path / "stored")


@pytest.fixture
def cells():
    return enumerate_cells(["stub_stage"], "cpu")


def due(cells, place, **more):
    return plan(cells, cells, place, **more).due


def ran(cells, place):
    return Campaign(plan(cells, cells, place), place, MACHINE).run(1)


def test_everything_is_measured_once_the_longest_first(cells, place, capsys):
    assert ran(cells, place)
    assert stub_stage.log(place.runs) == ["long", "short"]
    kept = results.load(place.stored, "cpu", "stub_stage")
    assert kept.results["long"].values == {"twice": 4, "third": 0.333333}
    assert kept.machines == {"m0": MACHINE}
    assert "[2/2] stub_stage/short" in capsys.readouterr().out
    assert not due(cells, place)
    assert due(cells, place, again=True) == set(cells)


def test_a_cell_with_other_settings_is_due_and_one_that_is_gone_is_dropped(cells, place):
    assert ran(cells, place)
    changed = {
        "stub_stage/short": replace(cells["stub_stage/short"], settings={"value": 5}),
    }
    assert due(changed, place) == {"stub_stage/short"}
    assert ran(changed, place)
    kept = results.load(place.stored, "cpu", "stub_stage").results
    assert {key: one.values["twice"] for key, one in kept.items()} == {"short": 10}


def test_a_failure_is_reported_and_stops_what_rests_on_it_alone(cells, place, capsys):
    bad = replace(cells["stub_stage/long"], settings={"value": 1, "fails": True})
    after = Cell(
        stage="stub_stage", key="after", settings={"value": 1}, needs=(bad.name,), estimate_s=1.0
    )
    given = {**cells, bad.name: bad, after.name: after}
    campaign = Campaign(plan(given, given, place), place, MACHINE)
    assert not campaign.run(1)
    assert "this cell fails on purpose" in campaign.failed["stub_stage/long"]
    assert "failed" in capsys.readouterr().out
    assert set(results.load(place.stored, "cpu", "stub_stage").results) == {"short"}
    assert due(given, place) == {bad.name, after.name}


def test_when_the_time_is_over_the_rest_is_left_for_another_call(cells, place):
    slow = {
        name: replace(one, settings={**one.settings, "sleep_s": 300.0})
        for name, one in cells.items()
    }
    campaign = Campaign(plan(slow, slow, place), place, MACHINE)
    began = time.monotonic()
    assert not campaign.run(1, limit_s=0.5)
    assert time.monotonic() - began < 120
    assert due(slow, place) == set(slow)


def test_ctrl_c_keeps_what_is_finished_and_the_next_run_goes_on(cells, place, tmp_path):
    script = tmp_path / "study.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path[:0] = [{str(STUDY)!r}, {str(Path(__file__).parent)!r}]
            import cell, run, signal, stub_stage
            from dataclasses import replace

            def slow(scale, cells=stub_stage.cells):
                long, short = sorted(cells(scale), key=lambda one: one.key)
                return [long, replace(short, settings={{"value": 1, "sleep_s": 60.0}})]

            if __name__ == "__main__":
                signal.signal(signal.SIGINT, signal.default_int_handler)
                run.STAGES = ("stub_stage",)
                stub_stage.cells = slow
                out, stored = sys.argv[1:]
                sys.exit(run.main(["--out", out, "--results", stored, "--workers", "1"]))
            """
        )
    )
    command = [sys.executable, str(script), str(place.out), str(place.stored)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as study:
        try:
            deadline = time.monotonic() + 60
            while stub_stage.log(place.runs) != ["long", "short"] and time.monotonic() < deadline:
                time.sleep(0.05)
            os.killpg(study.pid, signal.SIGINT)
            _, said = study.communicate(timeout=30)
        finally:
            study.kill()
    assert study.returncode == 130
    assert said.strip() == "Stopped. What is finished is kept; run again to go on."
    assert set(results.load(place.stored, "cpu", "stub_stage").results) == {"long"}
    assert due(cells, place) == {"stub_stage/short"}
    assert ran(cells, place)
    assert stub_stage.log(place.runs)[-1] == "short"
