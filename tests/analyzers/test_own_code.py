"""What code of others raises, as one sentence about it."""

import pytest

from qprobe.analyzers.own_code import tried
from qprobe.errors import InputError, QprobeError


def test_what_it_returns_is_handed_on():
    assert tried("loss of mine", lambda: 3) == 3


@pytest.mark.parametrize(
    ("error", "when", "sentence"),
    [
        (KeyError("boo"), "", "batches of mine raised KeyError: 'boo'; run it alone to see where."),
        (
            ValueError("first.\nsecond"), "on import",
            "batches of mine raised ValueError: first, on import; run it alone to see where.",
        ),
        (OSError(), "", "batches of mine raised OSError; run it alone to see where."),
        (SystemExit(3), "", "batches of mine raised SystemExit: 3; run it alone to see where."),
    ],
)  # fmt: skip
def test_one_sentence_names_the_part_the_error_and_what_to_do(error, when, sentence):
    def raising():
        raise error

    with pytest.raises(InputError) as caught:
        tried("batches of mine", raising, when)
    assert str(caught.value) == sentence
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [QprobeError("ours says it all."), KeyboardInterrupt()])
def test_errors_of_ours_and_ctrl_c_pass(error):
    def raising():
        raise error

    with pytest.raises(type(error)) as caught:
        tried("batches of mine", raising)
    assert caught.value is error
