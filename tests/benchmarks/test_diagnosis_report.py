from pathlib import Path

import pytest
from scipy.stats import norm

from qprobe.inference import Interval

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def made(monkeypatch):
    """Literal cases: who said what about which."""
    monkeypatch.syspath_prepend(str(FOLDER))
    from diagnosis_cases import Case
    from diagnosis_doctors import Diagnosis
    from diagnosis_report import Examined

    def case(kind, cause, low, said, *, family="cnn", strength=4.0):
        effect = None if cause is None else interval(low)
        one = Case(
            family=family,
            recipe="nvfp4",
            kind=kind,
            strength=strength,
            seed=0,
            sites=() if kind == "healthy" else ("a", "a/also"),
            cause=cause,
            effect=effect,
        )
        asked = {"qprobe": Diagnosis(ranked=said, alarm=bool(said))} if said is not None else {}
        return Examined(case=one, diagnoses=asked)

    return [
        case("noise", "not_explained", 0.1, (("a", "not_explained"),)),
        case("noise", "not_explained", 0.1, (("b", "scale_wrong"), ("a/also", "not_explained"))),
        case("noise", "not_explained", -0.1, None, strength=2.0),
        case("few-bits", "too_few_bits", 0.1, (), family="vit"),
        case("healthy", None, 0.0, ()),
        case("mild-gain", None, 0.0, (("b", "scale_wrong"),)),
    ]


def interval(low):
    return Interval(estimate=low + 0.1, low=low, high=low + 0.2, level=0.95, n=64, method="bca")


def test_shares_have_wilson_intervals(made):
    from diagnosis_report import Share

    z, n, p = norm.ppf(0.975), 57, 56 / 57
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    expected = f"98% [{100 * (middle - half):.0f}, {100 * (middle + half):.0f}]"
    assert str(Share(56, 57)) == expected == "98% [91, 100]"


def test_shares_of_detectable_and_of_healthy_cases_are_counted_apart(made):
    from diagnosis_report import by_doctor, by_family

    third, thirds = "33% [6, 79]", "67% [21, 94]"
    row = f"| qprobe | 3 | {third} | {thirds} | {thirds} | {third} | 2 | 50% [9, 91] |"
    assert by_doctor(made)[2:] == [row]
    vit = "| vit | 1 | 0% [0, 79] | 0% [0, 79] | 0% [0, 79] | 0% [0, 79] | 0 | – |"
    assert by_family(made, "qprobe")[3:] == [vit]


def test_kinds_and_strengths_count_what_is_below_detection(made):
    from diagnosis_report import by_kind, by_strength

    assert by_kind(made)[2:] == ["| noise | 3 | 2 | 1 |", "| few-bits | 1 | 1 | 0 |"]
    assert by_strength(made)[2:] == [
        "| noise | 2: 0 of 1 · 4: 2 of 2 |",
        "| few-bits | 4: 1 of 1 |",
    ]


def test_causes_are_confused_by_what_was_named_first(made):
    from diagnosis_report import confusion

    assert confusion(made, "qprobe") == [
        "| planted \\ named | not explained | too few bits | scale wrong | nothing |",
        "|---|--:|--:|--:|--:|",
        "| not explained | 1 |  | 1 |  |",
        "| too few bits |  |  |  | 1 |",
    ]


def test_mistakes_are_wrong_sites_wrong_causes_and_false_alarms(made):
    from diagnosis_report import mistakes

    assert mistakes(made, "qprobe") == [
        "- cnn, nvfp4: noise 4 at a: scale_wrong at b; not_explained at a/also",
        "- vit, nvfp4: few-bits 4 at a: nothing",
        "- cnn, nvfp4: mild-gain 4 at a: scale_wrong at b",
    ]


def test_what_was_logged_is_read_back(made, tmp_path):
    import json
    from dataclasses import asdict

    from diagnosis import read

    (tmp_path / "log").write_text("\n".join(json.dumps(asdict(one)) for one in made))
    assert list(read(tmp_path / "log")) == made
