import time

import pytest
import synthetic_runs

from qprobe import records
from qprobe.dashboard.context import Context
from qprobe.dashboard.findings_order import told_once
from qprobe.dashboard.library import Library
from qprobe.dashboard.pages.layer import PAGE
from qprobe.dashboard.query import Query


@pytest.fixture
def twice(tmp_path):
    """A training and two analyses of its one checkpoint, the second one newer and less alarmed."""
    path = synthetic_runs.training(tmp_path / "a" / "run.qprobe", full=False)
    with records.open(path) as run:
        source = run.meta.run
    synthetic_runs.analysis(tmp_path / "one.qprobe", source)
    time.sleep(0.01)  # runs are told apart by when they began
    info = records.RunInfo(config={}, environment={}, recipe="nvfp4", source=f"{'0' * 64} {source}")
    with records.create(tmp_path / "two.qprobe", info) as writer:
        again = {"analyzer": "dequantization", "claim": "said in other words"}
        writer.findings([synthetic_runs.finding(**again, effect=0.05, n=48)])
    return Library([tmp_path])


def found(library):
    return [(run, finding) for run in library.runs() for finding in run.findings]


def test_what_two_analyses_find_is_told_once_by_the_newer_one(twice):
    (told,) = told_once(found(twice))
    assert told.run.name == "two"
    assert told.finding.n == 48
    assert [run.name for run, _ in told.others] == ["one"]
    assert not told.disputed


@pytest.mark.parametrize(
    "changed", [{"severity": "warn"}, {"low": 0.1, "effect": 0.2, "high": 0.3}]
)
def test_other_numbers_are_another_opinion_of_the_same(twice, changed):
    said = [
        (twice.run(name), synthetic_runs.finding(**one))
        for name, one in (("one", {}), ("two", changed))
    ]
    (told,) = told_once(said)
    assert told.disputed


@pytest.mark.parametrize(
    "changed",
    [{"sites": ("blocks.1.mlp.0",)}, {"cause": "logit_offset"}, {"analyzer": "x"},
     {"roles": ("weight",)}],
)  # fmt: skip
def test_other_findings_stay_apart(twice, changed):
    run = twice.run("two")
    said = [(run, synthetic_runs.finding(**one)) for one in ({}, changed)]
    assert [told.finding for told in told_once(said)] == [finding for _, finding in said]


def test_what_one_run_says_twice_is_two_things(twice):
    run = twice.run("two")
    for sites in ((), ("head",)):
        said = [(run, synthetic_runs.finding(sites=sites, claim=claim)) for claim in ("a", "b")]
        assert [told.others for told in told_once(said)] == [(), ()]


def test_of_a_whole_model_the_words_count_without_their_numbers(twice):
    said = [
        (run, synthetic_runs.finding(sites=(), claim=claim))
        for run, claim in (
            (twice.run("one"), "quantization costs 0.1216 (14.6%)"),
            (twice.run("two"), "layers interact"),
            (twice.run("two"), "quantization costs 0.13 (15%)"),
        )
    ]
    told = told_once(said, one_training=True)
    assert [(one.finding.claim, len(one.others)) for one in told] == [
        ("quantization costs 0.13 (15%)", 1),
        ("layers interact", 0),
    ]


def test_two_checkpoints_are_two_witnesses_unless_the_training_is_what_counts(tmp_path):
    for name in ("first", "second"):
        synthetic_runs.analysis(tmp_path / f"{name}.qprobe", name)
    library = Library([tmp_path])
    assert len(told_once(found(library))) == 2
    assert len(told_once(found(library), one_training=True)) == 1


def test_the_page_of_a_layer_has_it_once_and_names_the_other(twice):
    query = Query.parse(f"?run=a&layer={synthetic_runs.FAILING}")
    shown = str(PAGE.layout(Context(library=twice, query=query)))
    assert shown.count("className='finding'") == 1
    assert "another run has this finding too, and agrees" in shown
    assert "said in other words" in shown
