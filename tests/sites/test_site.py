import pytest
from hypothesis import given
from hypothesis import strategies as st

from qprobe.errors import InputError
from qprobe.records.schema import Role
from qprobe.sites import Site

NAMES = st.text(st.characters(exclude_characters="."), min_size=1)
PATHS = st.lists(NAMES, max_size=4).map(".".join)


@given(PATHS, st.sampled_from(Role), st.sampled_from(["linear", "cat"]), st.integers(0, 99))
def test_what_is_written_is_read_back(path, role, kind, index):
    site = Site(path, role, kind, index)
    assert Site.parse(str(site)) == site


def test_the_model_itself_is_a_dot():
    assert str(Site("", Role.WEIGHT, "linear")) == "linear . weight"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear", "is no site"),
        ("linear head", "is no site"),
        ("linear head input[x]", "is no site"),
        ("linear head inputs", "no role known here; take one of attn_logits"),
    ],
)
def test_what_is_no_site_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Site.parse(text)


@pytest.mark.parametrize(("kind", "index"), [("", 0), ("two words", 0), ("linear", -1)])
def test_what_could_not_be_read_back_does_not_construct(kind, index):
    with pytest.raises(InputError):
        Site("head", Role.INPUT, kind, index)


def test_sites_are_keys():
    assert len({Site("a", Role.INPUT, "linear"), Site("a", Role.INPUT, "linear")}) == 1
