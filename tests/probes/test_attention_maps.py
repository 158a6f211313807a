"""Maps recomputed in numpy from dequantized queries and keys."""

import numpy as np
import pytest
import torch

import qprobe
from qprobe.errors import InputError
from qprobe.models import build
from qprobe.probes.attention_maps import AttentionMaps
from qprobe.probes.base import PROBES, Probe, SiteView
from qprobe.quant import NVFP4, QuantSpec, quantize
from qprobe.records.schema import Role
from qprobe.sites import Attended, Site

LOGITS = Site("0", Role.ATTN_LOGITS, "attention")
PROBS = Site("0", Role.ATTN_PROBS, "attention")


def seen(attended, site=LOGITS, draw=0):
    return SiteView(site=site, module=None, attended=attended, draw=draw)


def maps(attended, site=LOGITS, draw=0, tokens=64):
    state = AttentionMaps("nvfp4", tokens).observe(seen(attended, site, draw))
    found = {key.partition(".")[2]: one.numpy() for key, one in state.arrays().items()}
    return state.head, found["reference"].astype(np.float64), found["change"].astype(np.float64)


def attention(tokens=9, heads=2, **given):
    torch.manual_seed(4)
    shape = (3, heads, tokens, 32)
    return Attended(q=torch.randn(shape) * 3, k=torch.randn(shape), **given)


def products(attended, quantized):
    def taken(x):
        if quantized:
            x = quantize(x, QuantSpec(format=NVFP4), axis=-1).dequantize(torch.float32)
        return x.double().numpy()

    # What a recipe sees of the sample is one example and one head.
    q, k = (one[:1, :1] for one in (attended.q, attended.k))
    return (taken(q) @ taken(k).swapaxes(-1, -2) / np.sqrt(32))[0, 0]


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_logits_are_centred_and_the_change_is_that_of_quantization():
    attended = attention()
    before, after = products(attended, False), products(attended, True)
    head, reference, change = maps(attended)
    assert head == 0
    centred = before - before.mean(-1, keepdims=True)
    np.testing.assert_allclose(reference, centred, atol=4e-3)
    np.testing.assert_allclose(
        change, after - after.mean(-1, keepdims=True) - centred, rtol=2e-3, atol=1e-4
    )
    assert np.abs(change).max() > 0.01


def test_probabilities_are_those_over_all_keys():
    attended = attention(tokens=40)
    _, reference, change = maps(attended, PROBS, tokens=20)
    before, after = (softmax(products(attended, how)) for how in (False, True))
    np.testing.assert_allclose(reference, before[::2, ::2], rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(change, (after - before)[::2, ::2], rtol=2e-2, atol=1e-5)


def test_hidden_entries_are_told_from_zero():
    attended = attention(causal=True)
    _, logits, change = maps(attended)
    ahead = np.triu(np.ones((9, 9), dtype=bool), 1)
    assert np.isneginf(logits[ahead]).all()
    assert np.isfinite(logits[~ahead]).all()
    assert (change[ahead] == 0).all()
    np.testing.assert_allclose(np.where(ahead, 0, logits).sum(-1), 0, atol=2e-2)
    _, probabilities, _ = maps(attended, PROBS)
    assert (probabilities[ahead] == 0).all()


def test_heads_take_turns_and_queries_stay_in_order():
    torch.manual_seed(0)
    q = torch.arange(1.0, 11.0)[None, None, :, None].repeat(1, 3, 1, 16)
    attended = Attended(q=q, k=torch.eye(10, 16)[None, None].repeat(1, 3, 1, 1))
    for draw in range(3):
        head, reference, _ = maps(attended, draw=draw)
        assert head == draw
        assert (np.diff(reference[:, 0] - reference[:, -1]) >= 0).all()
        assert (np.diff(np.abs(reference).max(-1)) >= 0).all()


def test_the_first_of_two_is_kept_and_a_state_is_small():
    probe, attended = AttentionMaps("nvfp4"), attention(tokens=300)
    first, second = (probe.observe(seen(attended, draw=draw)) for draw in range(2))
    assert first.merge(second).merge(second) is first
    assert first.to("cpu").head == 0
    sizes = [one.numel() * one.element_size() for one in first.arrays().values()]
    assert sum(sizes) == 2 * 64 * 64 * 2
    assert first.scalars()["n"].item() == 64 * 64


def test_it_is_a_probe_and_says_where_there_is_nothing_to_see():
    probe = AttentionMaps()
    assert isinstance(probe, Probe)
    assert "attention_maps" in {one.name for one in PROBES}
    assert not probe.compares(LOGITS, None)
    assert probe.observe(seen(attention())) is None
    assert not probe.selects(Site("0", Role.INPUT, "linear"))
    with pytest.raises(InputError, match="1 to 256 tokens"):
        AttentionMaps(tokens=0)


def test_a_session_writes_maps_to_the_run(tmp_path):
    model, x = build("vit", "tiny", image=32), torch.randn(2, 3, 32, 32)
    probe, path = AttentionMaps("nvfp4"), tmp_path / "run.qprobe"
    with qprobe.attach(model, probes=[probe], example=x, run=path) as session:
        model(x).mean().backward()
        session.step()
    with qprobe.open(path) as reader:
        found = list(reader.arrays(probe="attention_maps"))
    assert {array.role for array in found} == {"attn_logits", "attn_probs"}
    assert all(array.data.ndim == 2 and array.data.dtype == np.float16 for array in found)
