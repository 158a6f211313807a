import pytest

from qprobe.checkpoints.legible import first_line, legible


@pytest.mark.parametrize("text", ["\x1b[31m", "a\nb", "\u202egnp.exe", "\ud800", "x" * 10**6, 3])
def test_whatever_a_file_says_is_one_short_printable_line(text):
    assert legible(text).isprintable()
    assert len(legible(text)) <= 80


def test_errors_of_others_are_cut_to_their_first_line():
    assert first_line(RuntimeError("bad offset.\nat frame 3")) == "bad offset"
