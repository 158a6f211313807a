import pickle

import pytest

from qprobe.errors import InputError, MissingExtraError, QprobeError, UnknownNameError


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (InputError, (QprobeError, ValueError)),
        (UnknownNameError, (QprobeError, InputError, KeyError)),
        (MissingExtraError, (QprobeError, ImportError)),
    ],
)
def test_an_error_is_ours_and_the_one_python_programmers_expect(kind, bases):
    for base in bases:
        with pytest.raises(base, match="what is wrong"):
            raise kind("what is wrong")


@pytest.mark.parametrize("kind", [QprobeError, InputError, UnknownNameError, MissingExtraError])
def test_the_message_is_the_text_also_from_a_worker_process(kind):
    # KeyError shows the repr of its argument: quotes around a sentence.
    error = kind("there is no 'x'.")
    assert str(error) == "there is no 'x'."
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copy), str(copy)) == (kind, "there is no 'x'.")


def test_an_error_without_a_message_has_an_empty_one():
    assert str(UnknownNameError()) == ""
