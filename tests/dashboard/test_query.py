import pytest

from qprobe.dashboard.query import LONGEST, Query, address


@pytest.mark.parametrize(
    "search", [None, "", "?", "???&&&==", "a" * 10**6, "&".join(f"k{i}=1" for i in range(999))]
)
def test_any_search_is_a_query(search):
    assert isinstance(Query.parse(search), Query)


def test_names_of_any_kind_survive_an_address():
    name = "<b>&=?#%日本語 \u202e" + "x" * 2000
    _, _, search = address("/layer", {"layer": name}).partition("?")
    assert Query.parse(search).text("layer") == name


def test_values_are_cut():
    assert len(Query.parse("a=" + "x" * 9000).text("a")) == LONGEST


@pytest.mark.parametrize(
    ("text", "number"), [("7", 7), ("-1", None), ("1e3", None), ("٣", None), ("9" * 99, None)]
)
def test_whole_numbers(text, number):
    assert Query.parse(f"step={text}").whole("step") == number


def test_choices_are_those_that_are_known():
    query = Query.parse("kind=a&kind=x&kind=b")
    assert query.choices("kind", ["b", "a"]) == ["a", "b"]
