"""The examples in the modules of the study are true."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[3] / "case_studies" / "nvfp4_recipes"
WITH_EXAMPLES = [path.stem for path in sorted(STUDY.glob("*.py")) if ">>> " in path.read_text()]


def test_some_modules_have_examples():
    assert {"number", "verdicts"} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_are_true(name):
    found = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed
