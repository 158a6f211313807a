"""Gradients from literal records."""

import pytest

from qprobe.analyzers.gradients import Gradients
from qprobe.records.schema import Cause, Record, Severity


def found(**values):
    records = [
        Record("", 1, "fc", "grad_output", "gradient_fidelity", key.replace("__", "."), value)
        for key, value in values.items()
    ]
    return Gradients().analyze(records)


@pytest.mark.parametrize(
    ("values", "cause", "interval"),
    [
        ({"wgrad__projection": 0.99}, None, None),
        ({"wgrad__projection": 1.2}, None, None),
        ({"wgrad__projection": 0.8}, Cause.ROUNDING_BIAS, (0.2, 0.2)),
        ({"wgrad__projection": 0.1}, Cause.SCALE_MISSING, (0.9, 0.9)),
        ({"dgrad__projection": 0.8, "wgrad__projection": 1.0}, Cause.ROUNDING_BIAS, (0.2, 0.2)),
    ],
)
def test_a_short_step_is_bias_and_a_lost_one_underflow(values, cause, interval):
    said = found(wgrad__n=64.0, **values)
    assert [one.cause for one in said] == ([] if cause is None else [cause])
    for one in said:
        assert (one.low, one.high) == pytest.approx(interval)
        assert one.severity is Severity.WARN


def test_of_several_draws_the_interval_decides():
    sure = {"wgrad__draws__projection": 0.8, "wgrad__draws__projection_stderr": 0.01}
    (one,) = found(wgrad__projection=0.5, **sure)
    assert (one.low, one.high) == pytest.approx((0.2 - 0.0196, 0.2 + 0.0196))
    assert found(**{**sure, "wgrad__draws__projection_stderr": 0.1}) == []


def test_noise_far_below_that_of_the_batch_is_no_finding():
    assert found(wgrad__projection=1.0, wgrad__snr_db=3.0, wgrad__halves__noise_ratio=0.9) == []
    (one,) = found(wgrad__projection=1.0, wgrad__halves__noise_ratio=2.0)
    assert (one.severity, one.effect, one.cause) == (Severity.INFO, 2.0, Cause.NOT_EXPLAINED)
