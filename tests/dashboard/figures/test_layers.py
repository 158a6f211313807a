import numpy as np
import plotly.io
import pytest
import synthetic_runs

from qprobe.dashboard.figures.layers import fingerprint, labels, matrix
from qprobe.dashboard.layer_table import layer_table
from qprobe.dashboard.library import Library
from qprobe.dashboard.measures import Measure


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    library = Library([synthetic_runs.wide(tmp_path_factory.mktemp("wide") / "w.qprobe")])
    return library.answer(library.runs()[0], layer_table)


def test_600_layers_and_12_measures_are_a_small_figure(wide):
    figure = fingerprint(wide, dark=False)
    heat = figure.data[0]
    assert heat.z.shape == (12, 600)
    assert heat.z.dtype == np.float32
    assert (heat.zmin, heat.zmax) == (0, 1)
    assert len(plotly.io.to_json(figure)) < 300_000


def test_the_matrix_puts_blocks_down_and_modules_across(wide):
    measure = wide.measures[3]
    heat = matrix(wide, measure, dark=True).data[0]
    assert heat.z.shape == (60, 10)
    assert heat.z[7, 4] == pytest.approx(wide.at("blocks.7.part4", measure), rel=1e-6)
    assert not heat.reversescale


def test_bright_is_worst_where_more_is_better(library):
    table = library.answer(library.run("vit-nvfp4-s0"), layer_table)
    measure = Measure("input", "operand_error", "fprop.x.sqnr_db")
    figure = matrix(table, measure, dark=False)
    assert figure.data[0].reversescale
    assert "low is worst" in figure.data[0].colorbar.title.text


def test_nan_has_a_mark_and_missing_is_a_gap(library):
    table = library.answer(library.run("vit-nvfp4-s0"), layer_table)
    figure = fingerprint(table.only(table.sites, table.telling(30)), dark=False)
    heat, marks = figure.data
    assert list(marks.x) == ["blocks.0.attn.proj"]
    assert list(marks.customdata) == ["NaN"]
    assert np.isnan(heat.z).any()


def test_names_are_escaped_and_stay_different():
    name = synthetic_runs.HOSTILE
    found = labels([name, name + "y", "<b>"])
    assert len(set(found)) == 3
    assert not any("<" in label for label in found)
    assert max(map(len, found)) < 120
