"""The paper's claims, and what our numbers say about each, by the rule written beside it."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cell import SCALES
from number import Number
from verdicts import Rule, Verdict, together

from qprobe.errors import InputError

FILE = Path(__file__).with_name("claims.toml")
ITEMS = (
    "recipes",
    "cross-validation",
    "attention",
    "gradient noise",
    "curvature",
    "norm",
)


@dataclass(frozen=True, kw_only=True)
class Premise:
    """What has to hold before a claim can be asked at all: without a loss none is recovered."""

    words: str
    number: str
    rule: Rule


@dataclass(frozen=True, kw_only=True)
class Test:
    """How a claim is tested at one scale: numbers and a rule, or why it cannot be."""

    setting: str
    numbers: tuple[str, ...] = ()
    rule: Rule | None = None
    premise: Premise | None = None
    untestable: str = ""

    def __post_init__(self) -> None:
        if bool(self.untestable) == bool(self.numbers) or bool(self.numbers) != bool(self.rule):
            raise InputError(
                f"a claim is tested by numbers and a rule, or says why not; got {self.numbers} and "
                f"{self.untestable!r}."
            )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says, where, with which value, and our tests of it by scale."""

    key: str
    item: str
    statement: str
    source: str
    paper: str
    tests: Mapping[str, Test]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim at one scale: the numbers that decided it, in the order of the test."""

    claim: Claim
    test: Test
    numbers: tuple[tuple[str, Number | None], ...]
    verdicts: tuple[Verdict, ...]
    verdict: Verdict
    #: Why a premise leaves the claim open, with its number; empty where it holds or there is none.
    vacuous: str = ""


def load(path: Path = FILE) -> tuple[Claim, ...]:
    """Every claim of the file; an unknown key in it is an error."""
    with path.open("rb") as file:
        given = tomllib.load(file)
    found = tuple(_claim(one) for one in given["claim"])
    keys = [one.key for one in found]
    if len(set(keys)) < len(keys):
        raise InputError(f"two claims of {path.name} have one key; they have {', '.join(keys)}.")
    return found


def _claim(given: Mapping[str, Any]) -> Claim:
    table = dict(given)
    tests = {scale: _test(table.pop(scale)) for scale in SCALES if scale in table}
    missing = [scale for scale in SCALES if scale not in tests]
    if missing:
        raise InputError(f"the claim {table.get('key')!r} says nothing of scale {missing[0]!r}.")
    claim = Claim(tests=tests, **table)
    if claim.item not in ITEMS:
        raise InputError(f"item is one of {', '.join(ITEMS)}, got {claim.item!r}.")
    return claim


def _test(given: Mapping[str, Any]) -> Test:
    table = dict(given)
    rule, premise = table.pop("rule", None), table.pop("premise", None)
    numbers = tuple(table.pop("numbers", ()))
    return Test(
        numbers=numbers,
        rule=None if rule is None else Rule.read(rule),
        premise=None if premise is None else _premise(premise),
        **table,
    )


def _premise(given: Mapping[str, Any]) -> Premise:
    table = dict(given)
    return Premise(rule=Rule.read(table.pop("rule")), **table)


def judge(claims: Sequence[Claim], scale: str, numbers: Mapping[str, Number]) -> list[Judged]:
    """Each claim at a scale; one whose numbers were not measured is not run."""
    return [_judged(claim, claim.tests[scale], numbers) for claim in claims]


def _judged(claim: Claim, test: Test, numbers: Mapping[str, Number]) -> Judged:
    if test.rule is None:
        return Judged(claim=claim, test=test, numbers=(), verdicts=(), verdict=Verdict.UNTESTABLE)
    found = tuple((name, numbers.get(name)) for name in test.numbers)
    verdicts = tuple(
        Verdict.NOT_RUN if number is None else test.rule.of(number) for _, number in found
    )
    vacuous = _vacuous(test.premise, numbers)
    verdict = together(verdicts)
    if vacuous and verdict is not Verdict.NOT_RUN:
        verdict = Verdict.OPEN
    return Judged(
        claim=claim,
        test=test,
        numbers=found,
        verdicts=verdicts,
        verdict=verdict,
        vacuous=vacuous,
    )


def _vacuous(premise: Premise | None, numbers: Mapping[str, Number]) -> str:
    """That the premise was not seen to hold, in words."""
    if premise is None:
        return ""
    number = numbers.get(premise.number)
    if number is not None and premise.rule.of(number) is Verdict.REPRODUCED:
        return ""
    shown = "not run" if number is None else number.shown()
    return f"{premise.words} is not established here: {shown}"
