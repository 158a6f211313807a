"""Attention in a session: the recipe in force is found, and where there is none nobody asks."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from plain_probes import Alone
from torch import nn

import qprobe
from qprobe.errors import InputError
from qprobe.models import build
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.probes.block_scales import BlockScales
from qprobe.probes.operand_error import OperandError
from qprobe.probes.softmax_levels import SoftmaxLevels
from qprobe.quant import NVFP4, QuantSpec, convert, fake_quantize
from qprobe.records.schema import Role
from qprobe.sites import Sampling

COMPARING = {
    *("attention_logits", "softmax_levels", "operand_error", "block_scales"),
    *("gradient_fidelity", "prediction_levels", "attention_maps"),
}
EVERYTHING = Sampling(samples=None, heads=None, queries=None)


def watched(model, x, probes="default", **options):
    """Records of two steps, and what warnings there were."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with qprobe.attach(model, probes=probes, every=1, example=x, **options) as session:
            for _ in range(2):
                model(x).square().mean().backward()
                session.read_weights()
                session.step()
            assert session.missed == ()
    return session.records()


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_converted_model_has_records_of_attention_without_asking_for_a_recipe(name):
    model, x = build(name, "tiny", image=32), torch.randn(2, 3, 32, 32)
    convert(model, "nvfp4")
    records = watched(model, x)
    keys = {r.key for r in records if r.probe == "attention_logits"}
    assert {"snr_qk_db", "snr_proj_db", "proj_available"} <= keys
    assert {r.value for r in records if r.key == "proj_available"} == {1.0}
    assert any(r.probe == "softmax_levels" for r in records)


@pytest.mark.parametrize("name", ["vit", "cnn"])
def test_in_high_precision_nothing_is_compared_and_nothing_is_missed(name):
    model, x = build(name, "tiny", image=32), torch.randn(2, 3, 32, 32)
    probes = {r.probe for r in watched(model, x)}
    assert not probes & COMPARING
    assert "moments" in probes


@pytest.mark.parametrize("recipe", ["nvfp4-fwd", "int4-adaptive", "nvfp4-chain"])
def test_only_what_the_recipe_quantizes_is_planned(recipe):
    model, x = build("vit", "tiny", image=32), torch.randn(2, 3, 32, 32)
    convert(model, recipe)
    probes = {r.probe for r in watched(model, x)}
    assert "operand_error" in probes
    assert ("block_scales" in probes) == recipe.startswith("nvfp4")
    assert ("gradient_fidelity" in probes) == (recipe != "nvfp4-fwd")


@pytest.mark.parametrize("probe", sorted(COMPARING))
def test_to_ask_for_it_without_a_recipe_is_an_error(probe):
    with pytest.raises(InputError, match=r"no recipe in force .* convert the model first"):
        qprobe.attach(build("vit", "tiny", image=32), probes=[probe])


@pytest.mark.parametrize("probe", [OperandError("nvfp4"), BlockScales("nvfp4")])
def test_a_recipe_that_is_asked_for_needs_none_in_force(probe):
    model, x = build("cnn", "tiny", image=32), torch.randn(2, 3, 32, 32)
    assert any(r.probe == probe.name for r in watched(model, x, probes=[probe]))


class Scaled(nn.Module):
    """Queries are scaled after their projection, so that they are no part of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.scale = nn.Linear(32, 96), nn.Parameter(torch.ones(()))

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q * self.scale, k, v)
        return out.transpose(1, 2).flatten(2)


def test_unknown_projections_leave_the_recipe_of_the_layers_beside():
    model, x = Scaled(), torch.randn(2, 8, 32)
    convert(model, "nvfp4", layers="all")
    records = watched(model, x, probes=["attention_logits"])
    keys = {r.key for r in records}
    assert "snr_qk_db" in keys
    assert "snr_proj_db" not in keys
    assert {r.value for r in records if r.key == "proj_available"} == {0.0}


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).flatten(2)


def test_the_error_through_projections_is_that_of_the_running_layer():
    model, x = Plain(), torch.randn(2, 8, 32)
    convert(model, "nvfp4", layers="all")
    probe = AttentionLogits(sampling=EVERYTHING)
    found = {r.key: r.value for r in watched(model, x, probes=[probe]) if r.step == 1}
    with torch.no_grad():
        weight, bias = model.qkv.weight.double(), model.qkv.bias.double()
        before = F.linear(x.double(), weight, bias)
        rounded = (
            fake_quantize(t.detach(), QuantSpec(format=NVFP4)).double()
            for t in (x.reshape(-1, 32), model.qkv.weight)
        )
        a, b = rounded
        after = (a @ b.T).view(2, 8, 96) + bias
    logits = []
    for y in (before, after):
        q, k, _ = y.view(2, 8, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        one = q @ k.mT / 4
        logits.append(one - one.mean(-1, keepdim=True))
    noise = (logits[1] - logits[0]).square().sum()
    expected = 10 * torch.log10(logits[0].square().sum() / noise)
    assert found["snr_proj_db"] == pytest.approx(expected.item(), abs=1e-3)


def test_other_probes_still_see_logits_and_probabilities():
    model, x = Plain(), torch.randn(2, 8, 32)
    probe = Alone()
    probe.selects = lambda site: site.role in (Role.ATTN_LOGITS, Role.ATTN_PROBS)
    found = {(r.role, r.key): r.value for r in watched(model, x, probes=[probe]) if r.step == 1}
    assert found["attn_probs", "mean"] == pytest.approx(1 / 8)
    assert found["attn_logits", "looks"] == 1


class Written(nn.Module):
    """Attention in one of the ways in which people write it, with a causal mask."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.way, self.q, self.k = way, nn.Linear(16, 32), nn.Linear(16, 32)
        self.v, self.out = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (2, 16)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return x + self.out(getattr(self, self.way)(q, k, v).transpose(1, 2).flatten(2))

    def fused(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def scaled(self, q, k, v):
        hidden = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
        scores = (torch.matmul(q, k.transpose(2, 3)) * 0.25).masked_fill(hidden, -torch.inf)
        return F.dropout(scores.softmax(-1), 0.0) @ v

    def divided(self, q, k, v):
        lowest = torch.finfo(q.dtype).min
        added = torch.full((q.shape[-2],) * 2, lowest).triu(1)
        scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).view(*q.shape[:-1], -1)
        scores /= 8
        p = F.softmax(2.0 * scores + added, dim=-1, dtype=torch.float32).to(q.dtype)
        return torch.matmul(p, v)

    def capped(self, q, k, v):
        return (torch.tanh(q @ k.mT * 0.25) * 5.0).softmax(-1) @ v

    def summed(self, q, k, v):
        hidden = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k).mul(0.25).masked_fill(hidden, -torch.inf)
        return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)


PROBES_OF_ATTENTION = ("attention_logits", "softmax_levels")


def of_attention(way, x, recipe="nvfp4"):
    probes = [AttentionLogits(recipe, EVERYTHING), SoftmaxLevels(recipe, EVERYTHING)]
    return {
        (r.step, r.probe, r.role, r.key): r.value
        for r in watched(Written(way), x, probes)
        if r.probe in PROBES_OF_ATTENTION
    }


@pytest.mark.parametrize("way", ["scaled", "divided", "summed"])
def test_attention_that_a_module_writes_out_has_the_errors_of_the_fused_one(way):
    x = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(1))
    fused, written = of_attention("fused", x), of_attention(way, x)
    assert {key for _, _, _, key in fused} >= {"snr_qk_db", "error_qk_nats", "flip_rate", "levels"}
    if way == "divided":  # folded heads are copies of what the layers returned
        fused, written = (
            {at: v for at, v in d.items() if "proj" not in at[3]} for d in (fused, written)
        )
    assert written.keys() == fused.keys()
    for key, value in written.items():
        assert value == pytest.approx(fused[key], rel=1e-4, abs=1e-5), key


def test_where_scores_are_not_only_scaled_and_masked_nothing_is_guessed_and_that_is_said():
    model, x = Written("capped"), torch.randn(3, 9, 16)
    probes = [AttentionLogits("nvfp4"), SoftmaxLevels("nvfp4")]
    session = qprobe.attach(model, probes=probes, every=1, example=x)
    model(x).square().mean().backward()
    session.step()
    with pytest.warns(UserWarning, match="hides its queries and keys"):
        session.close()
    assert {name for name, _ in session.missed} == {"attention_logits", "softmax_levels"}
    assert not any(record.probe in PROBES_OF_ATTENTION for record in session.records())
