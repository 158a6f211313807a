"""Attention from literal records."""

import pytest

from qprobe.analyzers.attention import Attention
from qprobe.records.schema import Cause, Record, Severity


def of(**heads):
    """Records of heads: error in nats, ratio in dB, size of the logits."""
    names = ("error_qk_nats", "snr_qk_db", "logit_std")
    return [
        Record("", 1, "attn", "attn_logits", "attention_logits", f"{head}.{name}", value)
        for head, values in heads.items()
        for name, value in zip(names, values, strict=True)
    ] + [Record("", 1, "attn", "attn_logits", "attention_logits", "n_qk", 100.0)]


@pytest.mark.parametrize(
    ("head", "causes"),
    [
        ((0.1, 20.0, 1.0), []),
        ((0.1, 5.0, 0.2), []),  # a bad ratio of logits too small to matter
        ((0.3, 17.0, 2.3), []),  # a good ratio of logits that have grown a little
        ((0.3, 2.0, 0.4), [Cause.LOGIT_OFFSET]),
        ((1.3, 17.0, 10.0), [Cause.LOGIT_GROWTH]),
        ((1.3, 2.0, 1.6), [Cause.LOGIT_OFFSET]),
    ],
)
def test_the_error_in_nats_says_whether_and_the_ratio_says_why(head, causes):
    found = Attention().analyze(of(head0=(0.05, 20.0, 0.5), head1=head))
    assert [one.cause for one in found] == causes
    assert all("head1" in one.claim and one.n == 100 for one in found)
    assert all(one.severity is Severity.WARN for one in found)


def test_the_worst_head_speaks_for_its_cause():
    found = Attention().analyze(
        of(head0=(0.6, 17.0, 5.0), head1=(2.0, 17.0, 15.0), head2=(0.7, 3.0, 1.0))
    )
    assert {one.cause: one.effect for one in found} == {
        Cause.LOGIT_GROWTH: 2.0,
        Cause.LOGIT_OFFSET: 0.7,
    }
    assert all("rotation" in one.remedy for one in found)


def test_few_levels_are_a_note():
    level = Record("", 1, "attn", "attn_probs", "softmax_levels", "levels_ratio", 0.05)
    (one,) = Attention().analyze([*of(head0=(0.1, 20.0, 1.0)), level])
    assert (one.severity, one.effect) == (Severity.INFO, 0.05)
    more = Record("", 1, *level.column, 0.2)
    assert Attention().analyze([*of(head0=(0.1, 20.0, 1.0)), more]) == []


def test_nothing_is_said_without_records():
    assert Attention().analyze([]) == []
