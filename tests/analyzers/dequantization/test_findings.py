"""From literals to claims."""

import pytest

from qprobe.analyzers.dequantization import Dequantization
from qprobe.analyzers.dequantization.emit import Measured, interval, record
from qprobe.analyzers.dequantization.findings import normalized
from qprobe.inference import Interval
from qprobe.records.schema import Record, Role, Severity


def between(estimate: float, low: float, high: float, n: int = 20) -> Interval:
    return Interval(estimate=estimate, low=low, high=high, level=0.95, n=n, method="literal")


def base(gap: Interval) -> list[Record]:
    high = between(0.8, 0.75, 0.85)
    return [*interval("", "score.high_precision", high), *interval("", "gap", gap)]


LOSS = between(0.2, 0.1, 0.3)


def told(records: list[Record]):
    return Dequantization().analyze(records)


def test_nothing_measured_says_nothing():
    assert told([]) == []
    assert told([Record("", 0, "a", "", "summary", "recovery", 1.0)]) == []


def test_no_loss_to_recover_is_an_answer():
    found = told([*base(between(0.001, -0.002, 0.004)), *interval("a", "recovery", LOSS)])
    assert len(found) == 1
    assert found[0].claim.startswith("no loss to recover")
    assert (found[0].low, found[0].high, found[0].n) == (-0.002, 0.004, 20)
    assert found[0].severity is Severity.INFO


def test_better_in_low_precision():
    (found,) = told(base(between(-0.1, -0.2, -0.05)))
    assert "better than in high precision" in found.claim


def test_layers_by_their_lower_limit():
    """Of 20 groups and 4 layers limits are t_19(0.99375) · √(20/19) / 1.96 = 1.444 times as far."""
    records = [
        *base(LOSS),
        *interval("small", "recovery", between(0.013, 0.007, 0.018)),  # 0.0043/0.8 = 0.5 %
        *interval("large", "recovery", between(0.15, 0.05, 0.2)),  # 0.0056/0.8 = 0.7 %
        *interval("largest", "recovery", between(0.15, 0.06, 0.2)),  # 0.020/0.8 = 2.5 %
        *interval("unsure", "recovery", between(0.1, -0.01, 0.2)),
    ]
    found = {one.sites: one for one in told([*records, record("", "layers", 4)])}
    assert found["largest",].severity is Severity.CRITICAL
    assert found["large",].severity is Severity.WARN
    assert found["small",].severity is Severity.WARN
    assert ("unsure",) not in found
    assert "75% of what is lost" in found["large",].claim
    assert "override(model, {'large': 'bf16'})" in found["large",].remedy
    assert found["large",].low == pytest.approx(0.15 - 1.444 * 0.1, abs=2e-4)
    assert "limits hold for all layers together" in found["large",].control


def test_what_stands_out_of_many_layers_alone_is_a_note():
    """A race measured two of 45 layers, but whichever had stood out would have been told."""
    records = [
        *base(LOSS),
        record("", "layers", 45),
        *interval("chance", "recovery", between(0.05, 0.02, 0.08)),
        *interval("sure", "recovery", between(0.15, 0.1, 0.2)),
    ]
    found = {one.sites: one for one in told(records)}
    assert found["chance",].severity is Severity.INFO
    assert found["chance",].low < 0.0
    assert found["chance",].claim.endswith("of so many layers one may look so by chance")
    assert found["sure",].severity is Severity.CRITICAL
    assert "by chance" not in found["sure",].claim


def test_the_operand_that_is_enough_is_named():
    records = [
        *base(LOSS),
        *interval("a", "recovery", between(0.15, 0.1, 0.2)),
        *interval("a", "recovery", between(0.14, 0.1, 0.2), Role.INPUT),
        *interval("a", "recovery", between(0.01, -0.01, 0.02), Role.WEIGHT),
        *interval("b", "recovery", between(0.15, 0.1, 0.2)),
        *interval("b", "recovery", between(0.08, 0.05, 0.1), Role.INPUT),
        *interval("b", "recovery", between(0.07, 0.05, 0.1), Role.WEIGHT),
    ]
    found = {one.sites: one for one in told(records)}
    assert found["a",].roles == (Role.INPUT,)
    assert "by its input alone" in found["a",].claim
    assert found["b",].roles == (Role.INPUT, Role.WEIGHT)


@pytest.mark.parametrize(
    ("total", "word"),
    [
        (between(0.18, 0.15, 0.2), "more than the 0.12"),
        (between(0.12, 0.1, 0.2), "alone they add up to 0.12, no sure difference"),
        (between(0.08, 0.05, 0.1), "less than the 0.12"),
    ],
)
def test_a_set_against_what_its_layers_do_alone(total, word):
    records = [
        *base(LOSS),
        *interval("a", "cumulative", between(0.1, 0.05, 0.15), step=1),
        *interval("b", "cumulative", total, step=2),
        record("b", "cumulative.additive", 0.12, step=2),
        *interval("b", "cumulative.left", between(0.02, -0.01, 0.04), step=2),
    ]
    (found,) = [one for one in told(records) if one.sites == ("a", "b")]
    assert word in found.claim
    assert "may be nothing" in found.claim


def test_interactions_from_a_tenth_of_the_gap():
    records = [
        *base(LOSS),
        *interval("a + b", "interaction", between(0.05, 0.01, 0.08)),
        *interval("a + c", "interaction", between(0.05, -0.01, 0.08)),
        *interval("b + c", "interaction", between(0.019, 0.01, 0.03)),
        *interval("c + d", "interaction", between(-0.05, -0.08, -0.01)),
    ]
    found = [one for one in told(records) if "fail" in one.claim]
    assert [one.sites for one in found] == [("a", "b"), ("c", "d")]
    assert "fail together" in found[0].claim
    assert "in each other's place" in found[1].claim


@pytest.mark.parametrize(("low", "word"), [(0.6, " like"), (0.2, "not reliably")])
def test_the_screen_is_trusted_by_its_lower_limit(low, word):
    records = interval("", "agreement", between(0.7, low, 0.9, n=13))
    (found,) = told(list(records))
    assert word in found.claim
    assert found.unit == "Kendall's tau-b"


def test_products_of_the_backward_pass():
    records = [
        *interval("a", "lost_decrease", between(0.2, 0.1, 0.3), "wgrad dy"),
        *interval("a", "lost_decrease", between(0.2, 0.01, 0.3), "dgrad w"),
    ]
    (found,) = told(records)
    assert found.roles == (Role.GRAD_OUTPUT,)
    assert found.severity is Severity.WARN
    assert "dy of wgrad loses 20%" in found.claim


def test_a_share_of_a_gap_that_may_be_nothing_does_not_exist():
    assert normalized(LOSS, between(0.4, 0.1, 0.5)) == 0.5
    assert normalized(LOSS, between(0.4, -0.1, 0.5)) is None
    assert normalized(LOSS, None) is None


def test_an_incomplete_interval_is_missing():
    records = list(interval("a", "recovery", LOSS))
    assert Measured(records).interval("recovery", "a") is not None
    assert Measured(records[:-1]).interval("recovery", "a") is None
    assert Measured(records).interval("recovery", "b") is None
