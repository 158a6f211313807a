"""Probabilities recomputed in numpy from dequantized queries and keys."""

from functools import reduce

import numpy as np
import pytest
import torch
from torch import nn

from qprobe.probes import attended
from qprobe.probes.base import PROBES, Probe, SiteView
from qprobe.probes.softmax_levels import SoftmaxLevels
from qprobe.quant import (
    NVFP4,
    Gemm,
    QuantRecipe,
    QuantSpec,
    ScaledDotProduct,
    convert,
    quantize,
)
from qprobe.records.schema import Role
from qprobe.sites import Attended, Sampling, Site

SITE = Site("0", Role.ATTN_PROBS, "attention")
EVERY = Sampling(samples=None, heads=None, queries=None)
SPEC = QuantSpec(format=NVFP4)


def seen(attended, module=None, draw=0):
    return SiteView(site=SITE, module=module, attended=attended, draw=draw)


def numbers(state):
    return {key: value.item() for key, value in state.to("cpu").scalars().items()}


def dequantized(x):
    return quantize(x, SPEC, axis=-1).dequantize(torch.float32)


def softmax(logits, visible):
    e = np.where(visible, np.exp(logits - logits.max(-1, keepdims=True)), 0.0)
    return e / e.sum(-1, keepdims=True)


def entropy(p):
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(-1)


def effective(p):
    _, counts = np.unique(np.floor(np.log2(p) * 64), return_counts=True)
    shares = counts / counts.sum()
    return np.exp(-(shares * np.log(shares)).sum())


def attention(of_k=2, **given):
    torch.manual_seed(4)
    return Attended(q=torch.randn(2, 2, 9, 32) * 3, k=torch.randn(2, of_k, 9, 32), **given)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("of_k", [2, 1])
def test_numbers_are_those_of_numpy(causal, of_k):
    attended = attention(of_k, causal=causal)
    found = numbers(SoftmaxLevels("nvfp4", EVERY).observe(seen(attended)))
    visible = np.tril(np.ones((9, 9), bool)) if causal else np.ones((9, 9), bool)
    pairs = [(attended.q, attended.k), (dequantized(attended.q), dequantized(attended.k))]
    before, after = (
        softmax((q.double() @ k.double().mT).numpy() * 32**-0.5, visible) for q, k in pairs
    )
    for head in range(2):
        p, r = before[:, head], after[:, head]
        wanted = {
            "entropy_change_nats": (entropy(r) - entropy(p)).mean(),
            "total_variation": np.abs(p - r).sum(-1).mean() / 2,
        }
        # A query that sees one key has one largest probability, and cannot flip.
        flips = p.argmax(-1) != r.argmax(-1)
        wanted["flip_rate"] = flips.mean()
        for key, value in wanted.items():
            assert found[f"head{head}.{key}"] == pytest.approx(value, rel=1e-4, abs=1e-6)
        kept = visible & (p >= 2.0**-20) & (r >= 2.0**-20)
        assert found[f"head{head}.levels"] == pytest.approx(effective(p[kept]), rel=0.01)
        assert found[f"head{head}.levels_quantized"] == pytest.approx(effective(r[kept]), rel=0.01)
    assert found["n"] == 2 * 2 * 9
    assert found["n_levels"] <= 2 * 2 * visible.sum()


def test_a_position_bias_is_part_of_the_probabilities():
    bias = torch.zeros(9)
    bias[3] = 30.0
    state = SoftmaxLevels("nvfp4", EVERY).observe(seen(attention(mask=bias)))
    found = numbers(state)
    assert found["total_variation"] < 1e-6  # all look at one key, whatever the logits are
    assert found["flip_rate"] == 0.0


def test_quantized_probabilities_are_seen_where_the_recipe_has_them():
    quantizes = QuantRecipe(
        name="attending", attention=Gemm(a=SPEC, b=SPEC), summary="q k p v", reference="none"
    )
    model = nn.Sequential(ScaledDotProduct())
    convert(model, quantizes, layers="all")
    within = numbers(SoftmaxLevels(sampling=EVERY).observe(seen(attention(), model[0])))
    logits_only = numbers(SoftmaxLevels("nvfp4", EVERY).observe(seen(attention())))
    assert within["levels_ratio"] < logits_only["levels_ratio"]
    assert within["vanished"] > logits_only["vanished"]
    q, k = dequantized(attention().q), dequantized(attention().k)
    p = dequantized((q @ k.mT * 32**-0.5).softmax(-1)).double().numpy()
    exact = (attention().q.double() @ attention().k.double().mT).numpy() * 32**-0.5
    before = softmax(exact, True)
    wanted = np.abs(before - p).sum(-1).mean() / 2
    assert within["total_variation"] == pytest.approx(wanted, rel=1e-3)


def test_turns_merge_and_heads_keep_their_numbers(monkeypatch):
    monkeypatch.setattr(attended, "usable", lambda *_: False)  # one head alone would be summed anew
    probe = SoftmaxLevels("int4-channel-token", Sampling(samples=None, heads=1, queries=None))
    states = [probe.observe(seen(attention(), draw=draw)) for draw in range(2)]
    assert "head1.total_variation" not in numbers(states[0])
    whole = SoftmaxLevels("int4-channel-token", EVERY).observe(seen(attention()))
    assert numbers(states[1].merge(states[0])) == pytest.approx(numbers(whole), rel=1e-9)


def test_histograms_are_of_all_heads_together():
    state = SoftmaxLevels("nvfp4", EVERY).observe(seen(attention()))
    arrays = state.arrays()
    assert set(arrays) == {"levels", "levels_quantized"}
    assert all(counts.dim() == 1 for counts in arrays.values())
    assert arrays["levels"].sum().item() == numbers(state)["n_levels"]


def stored(state):
    parts = (state.moved, state.levels)
    return sum(value.nbytes for part in parts for value in part.tensors().values())


def test_memory_is_5_kb_for_each_head_that_was_seen():
    torch.manual_seed(0)
    q = torch.randn(1, 12, 64, 64)
    looks = [SoftmaxLevels("nvfp4").observe(seen(Attended(q=q, k=q), draw=d)) for d in range(24)]
    assert stored(looks[0]) <= 5_300
    assert stored(reduce(type(looks[0]).merge, looks)) <= 64_000


def test_without_a_recipe_there_is_nothing_to_see():
    assert SoftmaxLevels().observe(seen(attention())) is None


def test_it_is_registered():
    assert isinstance(PROBES.get("softmax_levels"), Probe)
    assert SoftmaxLevels().selects(SITE)
    assert not SoftmaxLevels().selects(Site("0", Role.ATTN_LOGITS, "attention"))
