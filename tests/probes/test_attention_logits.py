"""Logits recomputed in numpy from the codes that ``quantize`` gives, head by head."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from qprobe.probes.attended import products_of
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.probes.base import PROBES, Probe, SiteView
from qprobe.quant import (
    NVFP4,
    Gemm,
    QuantRecipe,
    QuantSpec,
    ScaledDotProduct,
    convert,
    quantize,
    recipe,
)
from qprobe.quant.spec import Granularity
from qprobe.records.schema import Role
from qprobe.sites import Attended, Sampling, Site
from qprobe.sites.attention import of_multihead
from qprobe.sites.projection import Projections

SITE = Site("0", Role.ATTN_LOGITS, "attention")
EVERY = Sampling(samples=None, heads=None, queries=None)


def seen(attended, module=None, draw=0):
    return SiteView(site=SITE, module=module, attended=attended, draw=draw)


def numbers(state):
    return {key: value.item() for key, value in state.to("cpu").scalars().items()}


def observed(attended, name="nvfp4", sampling=EVERY, **given):
    return numbers(AttentionLogits(name, sampling).observe(seen(attended, **given)))


def codes(x, spec):
    return quantize(x, spec, axis=-1).dequantize(torch.float32).double().numpy()


def by_hand(before, after, visible):
    """SNR, error and spread of one head ``[samples, queries, keys]``, row by row."""
    rows = [x.reshape(-1, x.shape[-1]) for x in (before, after, visible)]
    signal = noise = 0.0
    free = 0
    for row, other, kept in zip(*rows, strict=True):
        if kept.any():
            a, e = row[kept], (other - row)[kept]
            signal += ((a - a.mean()) ** 2).sum()
            noise += ((e - e.mean()) ** 2).sum()
            free += kept.sum() - 1
    return 10 * np.log10(signal / noise), np.sqrt(noise / free), np.sqrt(signal / free)


def attention(queries=7, keys=7, of_k=4, **given):
    torch.manual_seed(5)
    q, k = torch.randn(3, 4, queries, 32) * 2, torch.randn(3, of_k, keys, 32)
    return Attended(q=q, k=k, **given)


HIDDEN = torch.rand(3, 1, 7, 7, generator=torch.Generator().manual_seed(1)) < 0.3
HIDDEN[0, 0, 2] = True  # a query that sees nothing
MASKS = {
    "no mask": ({}, None),
    "boolean": ({"mask": ~HIDDEN}, ~HIDDEN),
    "additive": ({"mask": torch.where(HIDDEN, -torch.inf, 0.3)}, ~HIDDEN),
    "swin": ({"mask": torch.where(HIDDEN, -100.0, 0.0)}, ~HIDDEN),
    "causal": ({"causal": True}, torch.ones(7, 7).tril().bool()),
    "causal and boolean": (
        {"causal": True, "mask": ~HIDDEN},
        torch.ones(7, 7).tril().bool() & ~HIDDEN,
    ),
    "scaled": ({"scale": 0.5}, None),
}


def test_a_look_keeps_no_tensor_alive():
    """Not even until the collector comes by: behind a query lies the graph of its step."""
    attended = attention()
    query = weakref.ref(attended.q)
    gc.disable()
    try:
        observed(attended)
        del attended
        assert query() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("of_k", [4, 2, 1])
def test_numbers_are_those_of_numpy(mask, of_k):
    given, visible = MASKS[mask]
    attended = attention(of_k=of_k, **given)
    found = observed(attended)
    spec = QuantSpec(format=NVFP4)
    # Every query head has keys of its own in numpy; in the tensor several share one.
    k = [attended.k, torch.from_numpy(codes(attended.k, spec))]
    q = [attended.q.double().numpy(), codes(attended.q, spec)]
    k = [x.double().repeat_interleave(4 // of_k, 1).numpy() for x in k]
    scale = given.get("scale", 32**-0.5)
    before, after = (a @ b.swapaxes(-1, -2) * scale for a, b in zip(q, k, strict=True))
    kept = np.ones_like(before, bool) if visible is None else visible.expand(3, 4, 7, 7).numpy()
    for head in range(4):
        values = by_hand(before[:, head], after[:, head], kept[:, head])
        keys = ("snr_qk_db", "error_qk_nats", "logit_std")
        for key, value in zip(keys, values, strict=True):
            assert found[f"head{head}.{key}"] == pytest.approx(value, rel=1e-4)
    assert found["n"] == kept.sum()
    whole = by_hand(before, after, kept)[1]
    assert found["error_qk_nats"] == pytest.approx(whole, rel=1e-4)
    assert found["proj_available"] == 0.0
    assert "snr_proj_db" not in found


def test_a_sample_is_part_of_the_whole_and_heads_keep_their_numbers():
    attended = attention()
    found = observed(attended, sampling=Sampling(samples=2, heads=1, queries=3), draw=2)
    assert {key.partition(".")[0] for key in found if key.startswith("head")} == {"head2"}
    assert found["n"] == 2 * 3 * 7


def test_turns_visit_all_heads_and_merge():
    attended = attention()
    probe = AttentionLogits("nvfp4", Sampling(samples=None, heads=1, queries=None))
    states = [probe.observe(seen(attended, draw=draw)) for draw in range(4)]
    merged = numbers(states[0].merge(states[1]).merge(states[2]).merge(states[3]))
    assert {f"head{head}.snr_qk_db" for head in range(4)} <= merged.keys()
    assert merged["n"] == 3 * 4 * 7 * 7
    # Blocks are the same; the scale of the tensor is that of the sample.
    assert merged["snr_qk_db"] == pytest.approx(observed(attended)["snr_qk_db"], abs=0.3)


def test_micro_batches_merge_to_the_whole():
    """One scale a token, so that parts are quantized like the whole."""
    attended = attention()
    probe = AttentionLogits("int4-channel-token", EVERY)
    parts = [
        probe.observe(seen(Attended(q=attended.q[rows], k=attended.k[rows])))
        for rows in (slice(0, 1), slice(1, 3))
    ]
    whole = numbers(probe.observe(seen(attended)))
    assert numbers(parts[0].merge(parts[1])) == pytest.approx(whole, rel=1e-6)


def test_one_scale_for_the_tensor_is_that_of_the_whole_tensor():
    """The largest element is in a head that is not looked at."""
    attended = attention()
    attended.q[0, 3, 0, 0] = 60.0
    spec = QuantSpec(format=recipe("int4-tensor").fprop.a.format, granularity=Granularity.TENSOR)
    q, k = codes(attended.q, spec)[:, 1], codes(attended.k, spec)[:, 1]
    exact = [x[:, 1].double().numpy() for x in (attended.q, attended.k)]
    before, after = (a @ b.swapaxes(-1, -2) * 32**-0.5 for a, b in (exact, (q, k)))
    found = observed(attended, "int4-tensor", Sampling(samples=None, heads=1, queries=None), draw=1)
    expected = by_hand(before, after, np.ones_like(before, bool))[0]
    assert found["head1.snr_qk_db"] == pytest.approx(expected, rel=1e-4)


def block(embed=64, heads=2, fused=True):
    """Attention whose queries and keys come from linear layers, and what it was called with."""
    torch.manual_seed(2)
    x = torch.randn(3, 9, embed)
    layers = [nn.Linear(embed, 3 * embed)] if fused else [nn.Linear(embed, embed) for _ in range(2)]
    return nn.ModuleList(layers), x, heads


def projected(layers, x, heads):
    """Queries and keys as a model cuts them out of what its layers return."""
    projections = Projections()
    outs = []
    for layer in layers:
        out = layer(x)
        projections.note(layer, x, out)
        outs.append(out)
    if len(outs) == 1:
        q, k, _ = outs[0].unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        q, k = (out.unflatten(-1, (heads, -1)).transpose(1, 2) for out in outs)
    return q, k, projections


def expected_projection(plain, quantized, x, heads):
    """Logits of plain and of converted layers, from calling them."""
    found = []
    for layers in (plain, quantized):
        q, k, _ = projected(layers, x, heads)
        width = q.shape[-1]
        found.append((q @ k.mT).detach().double().numpy() * width**-0.5)
    return by_hand(*found, np.ones_like(found[0], bool))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["nvfp4", "nvfp4-2d-rht", "int4-tensor", "nvfp4-fwd-rht"])
def test_projections_in_force_and_the_same_asked_for(fused, name):
    plain, x, heads = block(fused=fused)
    quantized, _, _ = block(fused=fused)
    convert(quantized, name, layers="all")
    snr, error, spread = expected_projection(plain, quantized, x, heads)
    wanted = {"snr_proj_db": snr, "error_proj_nats": error, "logit_std_proj": spread}
    for layers, asked in ((quantized, None), (plain, name)):
        q, k, projections = projected(layers, x, heads)
        attended = Attended(q=q.detach(), k=k.detach(), projections=projections.of(q, k))
        found = observed(attended, asked)
        assert found["proj_available"] == 1.0
        assert {key: found[key] for key in wanted} == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("name", ["nvfp4", "int8-channel-token"])
def test_under_autocast_projections_are_those_of_converted_layers(name):
    """Which cast to bfloat16 first, and give bfloat16: with eight bits that is half the error."""
    plain, x, heads = block()
    quantized, _, _ = block()
    convert(quantized, name, layers="all")
    with torch.autocast("cpu", torch.bfloat16):
        q, k, projections = projected(plain, x, heads)
        after = [part.detach().double() for part in projected(quantized, x, heads)[:2]]
        attended = Attended(q=q.detach(), k=k.detach(), projections=projections.of(q, k))
        found = observed(attended, name)
    logits = [
        (one @ other.mT).numpy() * q.shape[-1] ** -0.5
        for one, other in ((q.detach().double(), k.detach().double()), after)
    ]
    snr = by_hand(*logits, np.ones_like(logits[0], bool))[0]
    assert found["snr_proj_db"] == pytest.approx(snr, rel=1e-4)


def test_a_sample_of_projections_takes_the_same_tokens_of_the_same_samples():
    plain, x, heads = block()
    q, k, projections = projected(plain, x, heads)
    attended = Attended(q=q, k=k, projections=projections.of(q, k))
    probe = AttentionLogits("int8-channel-token", Sampling(samples=2, heads=1, queries=3))
    for draw in range(5):
        found = numbers(probe.observe(seen(attended, draw=draw)))
        assert found["snr_proj_db"] > 30  # another token, head or sample would be below 5
        assert abs(found["logit_std_proj"] / found["logit_std"] - 1) < 1e-5


@pytest.mark.parametrize("sampling", [EVERY, Sampling(samples=None, heads=1, queries=None)])
def test_several_queries_share_keys_in_every_path(sampling):
    """One scale a token, so that single heads are quantized as all of them are."""
    torch.manual_seed(3)
    name, x = "int4-channel-token", torch.randn(3, 9, 64)
    layers = [(nn.Linear(64, 4 * 16), 4), (nn.Linear(64, 2 * 16), 2)]
    projections, parts = Projections(), []
    quantized = [nn.Linear(64, heads * 16) for _, heads in layers]
    for (layer, heads), other in zip(layers, quantized, strict=True):
        other.load_state_dict(layer.state_dict())
        out = layer(x)
        projections.note(layer, x, out)
        parts.append(out.unflatten(-1, (heads, 16)).transpose(1, 2))
    convert(nn.ModuleList(quantized), name, layers="all")
    attended = Attended(q=parts[0], k=parts[1], projections=projections.of(*parts))
    after = [
        layer(x).unflatten(-1, (heads, 16)).transpose(1, 2)
        for layer, (_, heads) in zip(quantized, layers, strict=True)
    ]
    spec = QuantSpec(format=recipe(name).fprop.a.format, granularity=Granularity.TOKEN)
    for head in range(4):
        found = observed(attended, name, sampling, draw=head)
        pairs = {
            "proj": [part[:, at] for part, at in zip(after, (head, head // 2), strict=True)],
            "qk": [parts[0][:, head], parts[1][:, head // 2]],
        }
        pairs["qk"] = [torch.from_numpy(codes(part.detach(), spec)) for part in pairs["qk"]]
        before = (parts[0][:, head] @ parts[1][:, head // 2].mT).detach().double().numpy() / 4
        for path, (q, k) in pairs.items():
            logits = (q.double() @ k.double().mT).detach().numpy() / 4
            snr = by_hand(before, logits, np.ones_like(before, bool))[0]
            assert found[f"head{head}.snr_{path}_db"] == pytest.approx(snr, rel=1e-3)


def test_without_all_producers_the_projections_are_unavailable():
    plain, x, heads = block()
    q, k, projections = projected(plain, x, heads)
    assert projections.of(q * 2, k) is None
    some = Attended(q=q, k=k, projections=projections.of(q, k))
    none = Attended(q=q, k=k)
    probe = AttentionLogits("nvfp4", EVERY)
    merged = numbers(probe.observe(seen(some)).merge(probe.observe(seen(none))))
    assert merged["proj_available"] == 0.5
    assert merged["n_proj"] * 2 == merged["n"]


def test_multihead_attention_knows_its_projections():
    torch.manual_seed(0)
    module = nn.MultiheadAttention(64, 4, batch_first=True)
    x = torch.randn(6, 5, 64)
    given = {"query": x, "key": x, "value": x}
    sampling = Sampling(samples=4, heads=2, queries=3)
    for turn in range(3):
        with torch.no_grad():
            attended = of_multihead(module, given, sampling, turn)
            found = observed(attended, "int8-channel-token", sampling, draw=turn)
        assert found["proj_available"] == 1.0
        assert found["snr_proj_db"] > 30


def test_a_recipe_in_force_at_the_product_is_taken():
    spec = QuantSpec(format=NVFP4)
    attending = QuantRecipe(
        name="attending", attention=Gemm(a=spec, b=spec), summary="q k p v", reference="none"
    )
    model = nn.Sequential(ScaledDotProduct())
    convert(model, attending, layers="all")
    found = observed(attention(), None, module=model[0])
    assert found == observed(attention(), "nvfp4")


def test_without_a_recipe_or_queries_there_is_nothing_to_see():
    probe = AttentionLogits()
    assert probe.observe(seen(attention())) is None
    assert AttentionLogits("nvfp4").observe(seen(None)) is None
    assert AttentionLogits("bf16").observe(seen(attention())) is None
    assert AttentionLogits("nvfp4").observe(seen(attention(queries=0))) is None


def test_rotation_and_tiles_are_not_taken_over_from_layers():
    gemm = products_of(recipe("nvfp4-fwd-rht"))
    assert (str(gemm.a), gemm.hadamard) == ("nvfp4/1d", None)
    assert str(products_of(recipe("int4-tensor")).b) == "int4/tensor"
    assert not products_of(recipe("bf16")).quantizes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    attended = attention()
    found = observed(Attended(q=attended.q.to(dtype), k=attended.k.to(dtype)))
    assert found["snr_qk_db"] == pytest.approx(observed(attended)["snr_qk_db"], abs=0.2)


def test_it_is_registered():
    assert isinstance(PROBES.get("attention_logits"), Probe)
    assert AttentionLogits().selects(SITE)
    assert not AttentionLogits().selects(Site("0", Role.ATTN_PROBS, "attention"))
