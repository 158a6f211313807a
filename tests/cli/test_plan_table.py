import json

from sample_plans import layer, whole

from qprobe.cli.plan_table import as_json, lines
from qprobe.inference import Interval
from qprobe.plan import KeepLayers, choose, evidence


def test_a_measured_score_and_a_long_name_are_shown_whole():
    made = choose(evidence([*whole(), *layer("x" * 300, 1, 0.1)]), KeepLayers(1), "nvfp4")
    score = Interval(estimate=0.81, low=0.8, high=0.82, level=0.95, n=9, method="bootstrap")
    shown = lines(made.with_measured(score))
    assert "plan, measured   0.8100 [0.8000, 0.8200]" in shown
    assert f"{'x' * 300}           1  +0.1000 [+0.0900, +0.1100]" in shown


def test_a_screened_run_claims_no_score():
    records = [*layer("a", 1, screen=2.5), *layer("b", 1, screen=1.0)]
    made = choose(evidence(records), KeepLayers(1), "nvfp4")
    shown = lines(made)
    assert {"high precision   not measured", "plan, predicted  not measured"} <= set(shown)
    assert shown[-2].endswith("screen 2.5")
    assert shown[-1].startswith("note: the layers were only screened")
    assert json.loads(as_json(made))["predicted"] is None


def test_a_budget_that_buys_nothing():
    made = choose(evidence([*whole(), *layer("a", 1, -0.1)]), KeepLayers(1), "nvfp4")
    assert lines(made)[-1].startswith("Nothing is kept")
