import numpy as np
import pytest

from qprobe.dashboard.figures import layer
from qprobe.dashboard.layer_detail import Magnitudes
from qprobe.records import Column, Series


def magnitudes(**filled: int) -> Magnitudes:
    octaves = np.zeros(64, dtype=np.int64)
    for name, count in filled.items():
        octaves[40 + int(name[1:])] = count
    return Magnitudes(step=3, octaves=octaves, zero=0, nan=0, infinite=0)


def test_the_grid_puts_the_largest_octave_at_six():
    figure = layer.histogram(magnitudes(o0=3, o2=1), None, dark=False)
    lines = [shape.x0 for shape in figure.layout.shapes if shape.type == "line"]
    assert 2 ** np.array(lines) == pytest.approx(8 / 6 * np.array(layer.E2M1))
    (zone,) = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert 2**zone.x1 == pytest.approx(8 / 6 * 0.25)
    np.testing.assert_allclose(figure.data[0].y[[40, 42]], [0.75, 0.25])


def test_a_tensor_of_zeros_says_so():
    figure = layer.histogram(magnitudes(), None, dark=False)
    assert "zero" in figure.layout.annotations[0].text


def test_both_axes_of_kurtosis_are_named():
    figure = layer.kurtosis(
        {"channel_kurtosis_max": 90.0, "channel_kurtosis_median": 3.0, "token_kurtosis_p99": 5.0},
        dark=True,
    )
    assert [trace.name for trace in figure.data] == ["per channel", "per token or voxel"]
    assert list(figure.data[0].x) == ["median", "max"]
    assert figure.layout.yaxis.type == "log"


def test_nan_is_a_gap_in_the_line_and_a_cross():
    series = Series(steps=np.arange(4), values=np.array([1.0, np.nan, np.inf, 2.0]))
    line, crosses = layer.over_time([("<b>", series)], "loss", dark=False).data
    assert line.name == "&lt;b&gt;"
    assert np.isnan(line.y[1:3]).all()
    assert list(crosses.x) == [1, 2]


def test_heads_are_rows():
    found = {
        Column("a", "attn_logits", "p", f"head{head}.snr_db"): Series(
            steps=np.array([0, 5]), values=np.array([head, head + 0.5])
        )
        for head in (10, 2)
    }
    heat = layer.heads(found, "snr_db", dark=False).data[0]
    assert list(heat.y) == ["head 2", "head 10"]
    assert heat.z.tolist() == [[2.0, 2.5], [10.0, 10.5]]
    assert heat.reversescale


def test_nothing_measured_is_said():
    for figure in (layer.kurtosis({}, dark=False), layer.operands({}, {}, dark=False)):
        assert figure.layout.annotations


def test_operands_are_told_from_tensors_and_what_lost_nothing_from_zero():
    figure = layer.operands({"fprop.x": 9.5, "fprop.w": np.inf}, {"int4 input": 19.0}, dark=False)
    products, tensors = figure.data
    assert list(products.text) == ["9.5", "+inf"]
    assert np.isnan(products.x[1])
    assert list(tensors.y) == ["int4 input"]


def test_charts_of_a_layer_know_their_margins_beforehand():
    """Plotly draws a chart twice where it has to measure its labels."""
    line = Series(steps=np.array([1, 2]), values=np.array([1.0, 2.0]))
    charts = (
        layer.histogram(magnitudes(o0=3), None, dark=False),
        layer.kurtosis({"channel_kurtosis_max": 90.0}, dark=False),
        layer.operands({"fprop.x": 20.0}, {"nvfp4 grad output": 30.0}, dark=False),
        layer.over_time([("this run", line)], "loss", dark=False),
    )
    for figure in charts:
        assert figure.layout.xaxis.automargin is figure.layout.yaxis.automargin is False
    assert charts[2].layout.margin.l == 20 + 7 * len("nvfp4 grad output")
    assert layer.operands({"x" * 99: 1.0}, {}, dark=False).layout.margin.l == 190


def test_ticks_of_kurtosis_are_whole_numbers():
    axis = layer.kurtosis({"channel_kurtosis_max": 90.0}, dark=False).layout.yaxis
    assert dict(zip(axis.ticktext, axis.tickvals, strict=True))["20"] == 20.0
