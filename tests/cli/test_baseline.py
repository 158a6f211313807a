from dataclasses import replace

import pytest

from qprobe import records
from qprobe.cli.baseline import sentence, stored, unlike, worse_than
from qprobe.errors import InputError
from qprobe.records import Finding, Record, Role, RunInfo, Severity
from qprobe.records.schema import Cause

BEFORE = Finding(
    analyzer="dequantization", claim="", cause=Cause.NOT_EXPLAINED, severity=Severity.WARN,
    sites=("fc",), roles=(Role.INPUT,), effect=0.02, unit="score", low=0.01, high=0.03, n=8,
    control="", remedy="", reference="",
)  # fmt: skip


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.qprobe"
    with records.create(path, RunInfo(config={}, environment={})) as run:
        run.emit([Record("", 0, "weights", "", "analysis", "done", 1.0)])
        run.findings([BEFORE])
    return path


@pytest.mark.parametrize(
    ("change", "worse"),
    [
        ({}, False),
        ({"low": 0.02, "effect": 0.04, "high": 0.05}, False),  # what noise explains
        ({"low": 0.031, "effect": 0.04, "high": 0.05}, True),
        ({"severity": Severity.CRITICAL}, True),
        ({"severity": Severity.INFO, "low": 0.9, "effect": 0.9, "high": 0.9}, False),
        ({"sites": ("other",)}, True),
        ({"roles": (Role.WEIGHT,)}, True),
        ({"unit": "dB"}, True),
        ({"cause": Cause.SCALE_WRONG}, True),
        ({"analyzer": "verification", "sites": ("other",)}, False),  # remedies are no harm
    ],
)
def test_worse_is_graver_or_surely_larger_than_anything_alike(change, worse, base):
    found = replace(BEFORE, **change)
    assert worse_than(stored(base), [found]) == ([found] if worse else [])


def test_a_baseline_of_another_analysis_is_said_to_be_one(tmp_path):
    """Nothing of another model or recipe has a counterpart, so all of it would count as worse."""
    file = tmp_path / "base.qprobe"
    config = {"title": "cnn", "recipe": "int8-tensor", "only": [], "layers": None, "threads": 1}
    records.create(file, RunInfo(config=config, environment={})).close()
    assert unlike(file, config | {"threads": 2}) is None
    now = config | {"recipe": "nvfp4", "only": ["outliers", "weights"], "layers": "all"}
    assert unlike(file, now) == (
        "the baseline is of another analysis (recipe int8-tensor, not nvfp4; layers none, not all; "
        "only none, not outliers and weights)"
    )


def test_what_is_worse_is_told_beside_what_it_was(base):
    before = stored(base)
    worse = replace(before[0], effect=0.5, low=0.4, high=0.625, unit=before[0].unit)
    assert sentence(worse, before).endswith(
        f"(0.5 [0.4, 0.625] {worse.unit}; {before[0].effect:.3g} [{before[0].low:.3g}, "
        f"{before[0].high:.3g}] {worse.unit} before)"
    )
    exact = replace(worse, sites=("other",), low=0.5, high=0.5)
    assert sentence(exact, before).endswith(f"(0.5 {worse.unit}; nothing like it before)")


def test_what_is_gone_is_not_worse(base):
    assert worse_than(stored(base), []) == []


def test_a_run_that_is_no_analysis_is_refused(tmp_path):
    path = tmp_path / "training.qprobe"
    records.create(path, RunInfo(config={}, environment={})).close()
    with pytest.raises(InputError, match="is no analysis"):
        stored(path)
