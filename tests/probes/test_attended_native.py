"""The kernel's one look against the same steps taken one by one, in every instruction set."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from qprobe import native
from qprobe.native import InstructionSet
from qprobe.probes import attended
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.probes.base import SiteView
from qprobe.probes.softmax_levels import SoftmaxLevels
from qprobe.quant import convert
from qprobe.records.schema import Role
from qprobe.sites import Sampling, Site
from qprobe.sites.attention import Attended
from qprobe.sites.projection import Projections

pytestmark = pytest.mark.skipif(native.kernels is None, reason=native.describe())
SITES = {
    role: Site("attn/sdpa.0", role, "attention") for role in (Role.ATTN_LOGITS, Role.ATTN_PROBS)
}
SIZES = {"even": (64, 2), "partial blocks": (72, 3), "one block": (32, 2), "short": (20, 2)}


RECIPES = ["nvfp4", "nvfp4-2d-rht-sr", "int4-adaptive", "int4-tensor", "int8-channel-token"]


def made(size, *, fused=True, bias=True, batch=5, tokens=37, dtype=None, recipe=None):
    """An attention whose queries and keys come from linear layers, under autocast or a recipe."""
    torch.manual_seed(4)
    embed, heads = SIZES[size]
    x = torch.randn(batch, tokens, embed) * torch.linspace(0.5, 3, tokens)[:, None]
    widths = [3 * embed] if fused else [embed, embed]
    seen, outs = Projections(), []
    for width in widths:
        layer = nn.Sequential(nn.Linear(embed, width, bias=bias))
        if recipe is not None:
            convert(layer, recipe, layers="all")
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            outs.append(layer(x))
        seen.note(layer[0], x, outs[-1])
    if fused:
        q, k, _ = outs[0].unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        q, k = (out.unflatten(-1, (heads, -1)).transpose(1, 2) for out in outs)
    return {"q": q.detach(), "k": k.detach(), "projections": seen.of(q, k)}


def states(given, draw=0, recipe="nvfp4", sampling=None):
    """What both probes find, through one attention that they share."""
    shared = Attended(**given)
    found = []
    for probe, site in (
        (AttentionLogits(recipe, sampling), SITES[Role.ATTN_LOGITS]),
        (SoftmaxLevels(recipe, sampling), SITES[Role.ATTN_PROBS]),
    ):
        view = SiteView(
            site=site, module=None, tensors={}, attended=shared, axis=-1, step=1, draw=draw
        )
        found.append({key: float(one) for key, one in probe.observe(view).scalars().items()})
    return found


def both(given, monkeypatch, **options):
    """Through the kernel, which has to be used, and step by step."""
    calls = []
    with monkeypatch.context() as patch:
        see = attended.see
        patch.setattr(attended, "see", lambda *one: calls.append(one) or see(*one))
        ours = states(given, **options)
    assert calls
    with monkeypatch.context() as patch:
        patch.setattr(attended, "usable", lambda *_: False)
        return ours, states(given, **options)


def agree(ours, theirs):
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.keys() == yours.keys()
        for key, value in mine.items():
            # One row of 128 may hold two keys that float32 cannot tell apart.
            near = 0.009 if key.endswith("flip_rate") else 1e-9
            assert value == pytest.approx(yours[key], rel=1e-4, abs=near), key


@pytest.mark.parametrize("limit", list(InstructionSet))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fused", [True, False])
def test_numbers_are_those_of_the_single_steps(limit, size, fused, monkeypatch):
    native.kernels.select(limit)
    for draw in range(3):
        ours, theirs = both(made(size, fused=fused, bias=draw < 2), monkeypatch, draw=draw)
        assert ours[0]["proj_available"] == 1.0
        agree(ours, theirs)
    native.kernels.select(InstructionSet.AVX512)


@pytest.mark.parametrize("kind", ["causal", "boolean", "added"])
def test_masks_are_those_of_the_single_steps(kind, monkeypatch):
    given = made("even")
    keys = given["k"].shape[2]
    hidden = torch.arange(keys) % 5 == 0
    added = torch.linspace(-3, 3, keys).masked_fill(hidden, -math.inf)
    extra = {"causal": {"causal": True}, "boolean": {"mask": ~hidden}, "added": {"mask": added}}
    agree(*both(given | extra[kind], monkeypatch, draw=3))


def test_queries_share_keys_and_layers_may_be_unknown(monkeypatch):
    given = made("even")
    given = {"q": given["q"].repeat(1, 2, 1, 1), "k": given["k"], "scale": 0.3}
    for draw in range(4):
        ours, theirs = both(given, monkeypatch, draw=draw)
        assert ours[0]["proj_available"] == 0.0
        assert f"head{draw}.snr_qk_db" in ours[0]
        agree(ours, theirs)


def test_what_is_not_finite_is_left_to_the_single_steps(monkeypatch):
    given = made("even")
    given["q"] = given["q"].clone()
    given["q"][0, 0, 0, 0] = math.nan
    ours, theirs = both(given | {"projections": None}, monkeypatch, sampling=Sampling(queries=None))
    assert ours[0].keys() == theirs[0].keys()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_and_dtypes_are_those_of_the_single_steps(recipe, dtype, monkeypatch):
    for size, fused in (("partial blocks", True), ("short", False)):
        given = made(size, fused=fused, dtype=dtype)
        ours, theirs = both(given, monkeypatch, draw=1, recipe=recipe)
        assert ours[0]["proj_available"] == 1.0
        agree(ours, theirs)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(("force", "asked"), [("nvfp4", None), ("int8-tensor", "nvfp4")])
def test_a_recipe_in_force_is_seen_as_by_the_single_steps(force, asked, dtype, monkeypatch):
    given = made("even", dtype=dtype, recipe=force)
    ours, theirs = both(given, monkeypatch, draw=2, recipe=asked)
    assert ours[0]["proj_available"] == 1.0
    agree(ours, theirs)


def test_inputs_and_weights_in_bfloat16_are_read_as_they_are(monkeypatch):
    given = made("even", dtype=torch.bfloat16)
    calls = [
        replace(call, input=call.input.bfloat16(), weight=call.weight.bfloat16())
        for call in given["projections"]
    ]
    cast = given | {"projections": (calls[0], calls[0])}
    (ours, theirs), (mixed, _) = (both(one, monkeypatch) for one in (cast, given))
    agree(ours, theirs)
    assert ours == mixed  # an autocast layer has cast both


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        ("nvfp4-fwd-rht", {}),
        ("nvfp4", {"dtype": torch.float64}),
        ("nvfp4", {"dtype": torch.float16}),
        ("nvfp4", {"heads": None}),
    ],
)
def test_everything_else_is_taken_step_by_step(recipe, change, monkeypatch):
    given = made("even")
    if "dtype" in change:
        given = {name: given[name].to(change["dtype"]) for name in ("q", "k")}
    monkeypatch.setattr(attended, "see", lambda *_: pytest.fail("the kernel does not do this"))
    sampling = Sampling(heads=None) if "heads" in change else None
    assert states(given, recipe=recipe, sampling=sampling)[0]["n"] > 0
