import numpy as np
import pytest

from qprobe.dashboard import theme
from qprobe.dashboard.figures.parts import heads
from qprobe.dashboard.parts import Part
from qprobe.records import Series


def parts(values, key):
    """One head a value, of one attention."""
    return [
        Part(site="a", number=number, key=key,
             series=Series(steps=np.array([3]), values=np.array([value])))
        for number, value in enumerate(values)
    ]  # fmt: skip


@pytest.mark.parametrize(("key", "first"), [("error_qk_nats", "#ffffff"), ("snr_db", "#000000")])
def test_values_are_written_in_an_ink_for_their_cell(key, first):
    cells, told = heads(parts([1.0, 2.0, np.nan, 4.0], key), key, dark=True).data
    assert cells.reversescale == (key == "snr_db")  # bright is worst
    assert list(told.text) == ["1", "2", "4"]  # what is not a number has no cell
    assert list(told.x) == ["head 0", "head 1", "head 3"]
    assert told.textfont.color[0] == first != told.textfont.color[-1]


def test_a_cell_alone_is_in_the_middle_of_the_scale():
    told = heads(parts([2.0], "error_qk_nats"), "error_qk_nats", dark=False).data[1]
    assert list(told.textfont.color) == [theme.ink_on(0.5)]


def test_a_large_map_has_no_words_on_it():
    assert len(heads(parts(range(201), "error_qk_nats"), "error_qk_nats", dark=False).data) == 1
