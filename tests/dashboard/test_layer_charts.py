import numpy as np
import pytest

from qprobe.dashboard import layer_charts
from qprobe.dashboard.layer_detail import LayerDetail
from qprobe.records import Column, Series


@pytest.mark.parametrize(
    ("probe", "key", "drawn"),
    [
        ("moments", "channel_kurtosis_p90", True),
        ("moments", "token_kurtosis_max", True),
        ("moments", "kurtosis", False),  # of the whole tensor: it has no axis
        ("moments", "kurtosis_3", False),
        ("analysis", "channel_kurtosis_p90", False),
    ],
)
def test_a_layer_has_a_chart_of_kurtosis_where_there_is_something_to_draw(probe, key, drawn):
    assert layer_charts.is_kurtosis(Column("a", "input", probe, key)) is drawn


def test_a_tensor_without_a_histogram_says_so():
    nothing = LayerDetail(series={}, magnitudes={})
    figure, counted = layer_charts.histogram(nothing, None, "input", dark=False)
    assert "No histogram" in figure.layout.annotations[0].text
    assert counted == ""


@pytest.mark.parametrize(
    ("probe", "key", "drawn"),
    [
        ("operand_error", "fprop.x.sqnr_db", True),
        ("four_bit", "nvfp4.sqnr_db", True),
        ("weights", "int3_group.sqnr_db", False),  # of a format that the chart is not about
        ("operand_error", "fprop.x.underflow", False),
    ],
)
def test_a_layer_has_a_chart_of_errors_where_there_is_one_to_draw(probe, key, drawn):
    found = Series(steps=np.array([1]), values=np.array([20.0]))
    detail = LayerDetail(series={Column("a", "weight", probe, key): found}, magnitudes={})
    assert layer_charts.has_operands(detail) is drawn
    assert bool(layer_charts.operands(detail, dark=False).data) is drawn
