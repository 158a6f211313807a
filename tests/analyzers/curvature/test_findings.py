import pytest

from qprobe.analyzers.curvature.findings import findings
from qprobe.records import Cause, Record, Severity


def records(predicted, measured=None, layers=(), **more):
    values = {"loss": 1.0, "units": 8, "samples": 64, "predicted": predicted[0],
              "predicted.stderr": predicted[1]}  # fmt: skip
    estimate, error = measured or predicted
    values |= {"measured": estimate, "measured.stderr": error} | more
    rows = [("", "", key, value) for key, value in values.items()]
    for path, (value, stderr) in dict(layers).items():
        rows += [(path, "weight", "predicted", value), (path, "weight", "predicted.stderr", stderr)]
    return [Record("r", 0, site, role, "curvature", key, v) for site, role, key, v in rows]


def test_a_minimum_that_tolerates_the_noise():
    (found,) = findings(records((0.002, 0.001)))
    assert "the minimum tolerates" in found.claim
    assert (found.severity, found.cause) == (Severity.INFO, Cause.NOT_EXPLAINED)
    # t of 7 degrees of freedom at 97.5 %: 2.3646
    assert (found.low, found.high) == pytest.approx(
        (0.002 - 0.0023646, 0.002 + 0.0023646), rel=1e-4
    )
    assert (found.n, found.unit) == (64, "loss")


def test_an_interval_on_both_sides_is_not_decided():
    (found,) = findings(records((0.01, 0.005)))
    assert "not decided" in found.claim
    assert found.severity is Severity.INFO


def test_a_few_layers_that_pay_are_named():
    layers = {f"l{at}": (0.001, 0.0001) for at in range(10)} | {"bad": (0.3, 0.01)}
    (found,) = findings(records((0.31, 0.01), layers=layers))
    assert (found.sites, found.severity) == (("bad",), Severity.WARN)
    assert "in 1 of 11 layers: bad" in found.claim
    assert found.cause is Cause.TOO_FEW_BITS


def test_a_cost_that_is_spread_names_no_layer():
    layers = {f"l{at}": (0.03, 0.001) for at in range(10)}
    (found,) = findings(records((0.3, 0.01), layers=layers))
    assert (found.sites, "spread over the layers" in found.claim) == ((), True)


def test_layers_within_their_noise_are_not_named():
    layers = {"noisy": (0.3, 0.2), **{f"l{at}": (0.001, 0.0001) for at in range(10)}}
    (found,) = findings(records((0.31, 0.01), layers=layers))
    assert found.sites == ()


def test_where_the_second_order_fails_the_measurement_counts():
    (found,) = findings(records((0.01, 0.001), measured=(0.5, 0.01)))
    assert "too coarse for curvature" in found.claim
    assert (found.effect, found.severity) == (0.5, Severity.WARN)
    (better,) = findings(records((0.5, 0.001), measured=(-0.1, 0.01)))
    assert better.severity is Severity.INFO


@pytest.mark.parametrize("missing", ["predicted", "measured", "loss"])
def test_without_an_error_of_weights_nothing_is_said(missing):
    assert findings([one for one in records((0.1, 0.01)) if one.key != missing]) == []


def test_other_probes_are_not_read():
    others = [Record("r", 0, "", "", "summary", "predicted", 9.0)]
    (found,) = findings([*records((0.002, 0.001)), *others])
    assert found.effect == 0.002
