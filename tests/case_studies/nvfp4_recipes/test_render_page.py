"""The committed page is what the stored results say, and says what is missing."""

import re
from pathlib import Path

import page
import pytest
import render
import results
from chart import Chart, Panel, Row, draw
from number import Number
from results import Result, StageResults

from qprobe.errors import InputError

STUDY = Path(__file__).parents[3] / "case_studies" / "nvfp4_recipes"


def test_the_committed_page_and_charts_are_what_render_would_write():
    for path, text in render.rendered(STUDY, results.FOLDER).items():
        assert path.read_text("utf-8") == text, f"run: make cases ({path.name})"


def test_without_results_every_claim_that_can_be_tested_is_not_run(tmp_path):
    made = page.page(tmp_path)
    verdicts = re.findall(r"\*\*(.*): \d+ of \d+ claims\*\*", made.sections["verdicts"])
    assert verdicts == ["Not testable here", "Not run"]
    assert "**reproduced**" not in made.sections["claims"]
    assert "| **not run** | not run |" in made.sections["claims"]
    assert "not run" in made.charts["recipes"]


def test_a_number_comes_from_the_results_and_twice_the_same(tmp_path):
    cells = {
        f"swin-tiny-{recipe}-s{seed}": Result(
            hash="h",
            settings={},
            cpu_s=30.0,
            wall_s=30.0,
            machine="m0",
            values={"test": {"auprc": value + 0.001 * seed, "loss": 1.0}},
        )
        for recipe, value in (("bf16", 0.8), ("nvfp4", 0.4))
        for seed in range(5)
    }
    results.save(tmp_path, "cpu", "grid", StageResults(results=cells, machines={"m0": {}}))
    made = page.page(tmp_path)
    assert made == page.page(tmp_path)
    assert "0.802 [0.800, 0.804] AUPRC, n 5" in made.sections["recipes"]
    hurt = next(line for line in made.sections["claims"].splitlines() if "hurt the small" in line)
    assert "not run" in hurt  # one of its two recipes is missing
    assert "| grid | 10 of 120 | 5.0 |" in made.sections["costs"]


def test_a_section_without_a_place_is_an_error():
    with pytest.raises(InputError, match="begin x"):
        render.filled("no markers", {"x": "text"})


def test_a_chart_holds_its_numbers_and_says_what_is_missing():
    number = Number(estimate=0.9, low=0.8, high=1.0, n=5)
    rows = (Row(label="a <b>", number=number, points=(0.85, 0.95)), Row(label="c", number=None))
    svg = draw(Chart(title="t", axis="x", panels=(Panel(title="p", rows=rows, neutral=1.0),)))
    assert ">a &lt;b&gt;: 0.900 [0.800, 1.000], n 5<" in svg
    assert svg.count(">not run<") == 1
    first, second, mean = map(float, re.findall(r'<circle cx="([\d.]+)"', svg))
    assert first < mean < second
    assert mean == pytest.approx((first + second) / 2, abs=0.1)  # one linear axis
