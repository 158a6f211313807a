"""What is held of one watched tensor at 768 channels: 64 kB, however many tokens and steps.

All of it counts: the summary, the states of all probes, and what they remember from look to look.
"""

import copy
import importlib
from collections import Counter
from functools import reduce

import pytest
import torch
from sites.zoo import ZOO, loss_of
from torch import nn

import qprobe
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.probes.attention_maps import AttentionMaps
from qprobe.probes.base import PROBES, ComparingProbe, SiteView
from qprobe.probes.packing import pack
from qprobe.probes.softmax_levels import SoftmaxLevels
from qprobe.records.schema import Role
from qprobe.sites import Attended, Site

LIMIT, CHANNELS, RECIPE = 64_000, 768, "nvfp4-2d-rht-sr"
#: What of it is remembered of a weight from look to look.
REMEMBERED = 12_500
#: Models that are small enough to train for long.
ANIMALS = ("twice", "unet", "einsum attention", "checkpointed")


@pytest.fixture
def _every_probe_at_every_step(monkeypatch):
    probes = tuple(copy.copy(under(probe)) for probe in PROBES)
    for probe in probes:
        probe.every = 1
    monkeypatch.setattr(importlib.import_module("qprobe.probes.attach"), "_default", lambda: probes)


def under(probe):
    """The probe, asked about a recipe that quantizes every operand."""
    asks = isinstance(probe, ComparingProbe) or probe.name == "update_health"
    return type(probe)(recipe=RECIPE) if asks else probe


def size(state):
    """Bytes of its tensors."""
    return pack(state).data.nbytes


def nbytes(value):
    """Of all tensors in nested tables and objects that probes or sessions hold."""
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, dict | list | tuple):
        return sum(map(nbytes, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str) else 8


def held(session):
    """By site what states and summaries take, and what probes remember of it."""
    observer, states, remembered = session._observer, Counter(), Counter()
    for slot, state in observer._states.items():
        states[slot.site] += size(state)
    for site, summary in observer._summaries.items():
        states[site] += size(summary)
    for slot in session._slots:
        remembered[slot.site] += nbytes(slot.memory)
    return states, remembered


@pytest.mark.usefixtures("_every_probe_at_every_step")
@pytest.mark.parametrize("tokens", [8, 512])
def test_a_tensor_with_every_probe_that_sees_it_takes_at_most_64_kb(tokens):
    model = nn.Sequential(nn.Linear(CHANNELS, CHANNELS))
    with qprobe.attach(model, every=1) as session:
        x = torch.randn(4, tokens // 4, CHANNELS, requires_grad=True)
        for _ in range(2):
            for _ in range(2):
                model(x).square().mean().backward()
            session.read_weights()
            states, remembered = held(session)
            session.step()
    assert {site.role for site in states} == {
        *(Role.INPUT, Role.OUTPUT, Role.WEIGHT, Role.GRAD_OUTPUT)
    }
    whole = states + remembered
    assert max(whole.values()) <= LIMIT, {str(site): n for site, n in whole.items()}
    assert {site.role for site, n in remembered.items() if n} == {Role.WEIGHT}
    assert max(remembered.values()) <= REMEMBERED


@pytest.mark.usefixtures("_every_probe_at_every_step")
@pytest.mark.parametrize(
    ("animal", "steps"),
    [
        *((name, 6) for name in ANIMALS),
        *(pytest.param(name, 15, marks=pytest.mark.slow) for name in ZOO),
    ],
)
def test_what_all_probes_hold_does_not_grow_with_steps(animal, steps, tmp_path):
    torch.manual_seed(0)
    model, (args, kwargs) = ZOO[animal].model(), ZOO[animal].inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    sizes, totals = [], []
    with qprobe.attach(model, tmp_path / "x.qprobe", every=1, example=args or kwargs) as session:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(model(*args, **kwargs)).backward()
            optimizer.step()
            states, remembered = held(session)
            assert max((states + remembered).values()) <= LIMIT
            assert max(remembered.values()) <= REMEMBERED
            calls = len(session._observer._pending), len(session._capture._gradients)
            sizes.append(states.total())
            totals.append((remembered.total(), calls))
            session.step(loss=1.0)
            assert session._observer._states == {}
            assert session._ledger.records == []
    assert len(set(totals[2:])) == 1, totals  # the first look remembers, the second compares
    half = steps // 2
    assert max(sizes[half:]) <= 1.05 * max(sizes[:half])  # counts are as wide as they have to be


def test_an_attention_of_768_channels_takes_at_most_64_kb_when_all_heads_were_seen():
    torch.manual_seed(0)
    q = torch.randn(4, CHANNELS // 64, 64, 64)
    for probe, role in (
        (AttentionLogits("nvfp4"), Role.ATTN_LOGITS),
        (SoftmaxLevels("nvfp4"), Role.ATTN_PROBS),
    ):
        site = Site("0", role, "attention")
        looks = [
            probe.observe(SiteView(site=site, module=None, attended=Attended(q=q, k=q), draw=draw))
            for draw in range(12)
        ]
        merged = reduce(type(looks[0]).merge, looks)
        assert size(merged) <= LIMIT, probe.name
        assert merged.scalars().keys() >= {"head0." + key for key in _of_heads(merged)}


@pytest.mark.parametrize("role", [Role.ATTN_LOGITS, Role.ATTN_PROBS])
def test_maps_of_an_attention_take_16_kb(role):
    q = torch.randn(4, CHANNELS // 64, 256, 64)
    view = SiteView(
        site=Site("0", role, "attention"), module=None, attended=Attended(q=q, k=q), draw=0
    )
    maps = AttentionMaps("nvfp4").observe(view)
    assert size(maps.merge(maps)) == 2 * 2 * 64 * 64


def _of_heads(state):
    return {key.removeprefix("head11.") for key in state.scalars() if key.startswith("head11.")}
