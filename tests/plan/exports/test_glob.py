from fnmatch import fnmatchcase

import pytest

from qprobe.plan.exports.glob import literal

NAMES = ["a.b", "a[0]", "a]b[", "x*", "y?", "[!a]", "[a-z]", "a-b", "", "ä[ü]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_literal_matches_itself_and_no_other(name):
    matched = [other for other in [*NAMES, "a0", "xx", "yy", "b", "m"] if fnmatchcase(other, literal(name))]  # fmt: skip # noqa: E501
    assert matched == [name]
