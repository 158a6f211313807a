import pytest
import yaml

from qprobe.plan.exports.yaml import dump

VALUES = [
    {"a": 1, "b": True, "c": None, "d": [], "e": {}},
    {"yes": "no", "1": "1.0", "null": "~", "re:a": r"re:\A(?:x|y)\.b\Z", "k: v": "# no comment"},
    {"a": {"b": {"c": ["x", 2, False]}}, "ü": "\"quoted\" 'and' \\ \n\t end"},
]


@pytest.mark.parametrize("value", VALUES)
def test_another_parser_reads_the_same(value):
    assert yaml.safe_load(dump(value, ["a comment: with # signs"])) == value
