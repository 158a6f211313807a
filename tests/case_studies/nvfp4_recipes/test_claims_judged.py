import claims
import pytest
from number import Number
from verdicts import Verdict

from qprobe.errors import InputError

CLAIM = """
[[claim]]
key = "a"
item = "norm"
statement = "s"
source = "§1"
paper = "p"
[claim.cpu]
setting = "here"
numbers = ["x", "y"]
rule = { kind = "above" }
[claim.gpu]
setting = "there"
untestable = "because"
"""


def number(low, high):
    return Number(estimate=low, low=low, high=high, n=5)


def read(tmp_path, text=CLAIM):
    path = tmp_path / "claims.toml"
    path.write_text(text)
    return claims.load(path)


def test_every_claim_of_the_paper_is_tested_or_says_why_not_at_both_scales():
    known = claims.load()
    assert {claim.item for claim in known} <= set(claims.ITEMS)
    for claim in known:
        assert set(claim.tests) == {"cpu", "gpu"}
        assert claim.source
        assert claim.paper


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ({}, Verdict.NOT_RUN),
        ({"x": number(1, 2)}, Verdict.NOT_RUN),
        ({"x": number(1, 2), "y": number(1, 2)}, Verdict.REPRODUCED),
        ({"x": number(1, 2), "y": number(-2, -1)}, Verdict.REFUTED),
    ],
)
def test_a_claim_is_what_its_numbers_say_and_not_run_without_them(numbers, verdict, tmp_path):
    (here,) = claims.judge(read(tmp_path), "cpu", numbers)
    assert here.verdict is verdict
    (there,) = claims.judge(read(tmp_path), "gpu", numbers)
    assert there.verdict is Verdict.UNTESTABLE


@pytest.mark.parametrize(
    ("premise", "verdict", "vacuous"),
    [
        (number(-2, -1), Verdict.REPRODUCED, False),
        (number(-1, 1), Verdict.OPEN, True),
        (None, Verdict.OPEN, True),
    ],
)
def test_what_rests_on_a_premise_is_open_without_it(premise, verdict, vacuous, tmp_path):
    line = 'premise = { words = "A loss", number = "z", rule = { kind = "below" } }'
    text = CLAIM.replace("[claim.gpu]", f"{line}\n[claim.gpu]")
    numbers = {"x": number(1, 2), "y": number(1, 2)}
    found = numbers if premise is None else {**numbers, "z": premise}
    (here,) = claims.judge(read(tmp_path, text), "cpu", found)
    assert here.verdict is verdict
    assert bool(here.vacuous) is vacuous
    (unmeasured,) = claims.judge(read(tmp_path, text), "cpu", {})
    assert unmeasured.verdict is Verdict.NOT_RUN


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('item = "norm"', 'item = "norms"', "item is one of"),
        ('untestable = "because"', 'numbers = ["x"]', "numbers and a rule"),
        ("[claim.gpu]", "[claim.tpu]", "says nothing of scale 'gpu'"),
    ],
)
def test_a_claim_that_says_too_little_is_refused(old, new, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read(tmp_path, CLAIM.replace(old, new))


def test_two_claims_of_one_key_are_refused(tmp_path):
    with pytest.raises(InputError, match="have one key"):
        read(tmp_path, CLAIM + CLAIM)
