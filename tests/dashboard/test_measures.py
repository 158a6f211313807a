"""What is told of a measure, by names that the probes write."""

import pytest

from qprobe.dashboard.measures import RECOVERY, Measure


@pytest.mark.parametrize(
    ("probe", "key", "higher"),
    [
        ("operand_error", "fprop.x.sqnr_db", True),
        ("operand_error", "fprop.x.underflow", False),
        ("gradient_fidelity", "wgrad.cosine", True),
        ("attention_logits", "snr_qk_db", True),
        ("attention_logits", "error_qk_nats", False),
        ("softmax_levels", "levels_ratio", True),
        ("moments", "channel_kurtosis_max", False),
    ],
)
def test_which_end_is_bad(probe, key, higher):
    assert Measure("input", probe, key).higher_is_better is higher


def test_counts_and_limits_are_no_sign_of_trouble():
    for key in ("n", "fprop.x.n", "recovery.low", "trace.stderr", "zero_fraction", "std"):
        assert Measure("input", "p", key).is_neutral
    assert not RECOVERY.is_neutral


def test_what_a_layer_brings_back_is_worth_the_first_look():
    others = [
        Measure("input", "operand_error", "fprop.x.sqnr_db"),
        Measure("input", "moments", "channel_kurtosis_max"),
        Measure("input", "somebody", "else"),
    ]
    assert sorted([*others[::-1], RECOVERY], key=lambda one: one.priority) == [RECOVERY, *others]
