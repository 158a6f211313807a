import pytest

from qprobe.cli.columns import aligned, row, widths


def test_columns_start_below_each_other_and_nothing_trails():
    lines = aligned([("name", "every", "what"), ("moments", "10", ""), ("of", "100", "it")])
    assert lines == ["name     every  what", "moments  10", "of       100    it"]


def test_a_cell_that_is_too_long_pushes_the_others_and_is_not_cut():
    assert row(("abcdef", "g"), (2, 1)) == "abcdef  g"


def test_rows_of_different_lengths_are_no_table():
    with pytest.raises(ValueError, match="shorter"):
        widths([("a", "b"), ("c",)])
