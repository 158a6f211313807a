"""What the states of one watched tensor take, at 768 channels: 64 kB, however many tokens."""

from collections import defaultdict
from functools import reduce

import pytest
import torch
from torch import nn

import qprobe
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.probes.attention_maps import AttentionMaps
from qprobe.probes.base import PROBES, SiteView
from qprobe.probes.block_scales import BlockScales
from qprobe.probes.gradient_fidelity import GradientFidelity
from qprobe.probes.operand_error import OperandError
from qprobe.probes.packing import pack
from qprobe.probes.softmax_levels import SoftmaxLevels
from qprobe.records.schema import Role
from qprobe.sites import Attended, Site

LIMIT, CHANNELS, RECIPE = 64_000, 768, "nvfp4-2d-rht-sr"
PLAIN = ("moments", "histogram", "four_bit", "update_health")
ASKED = {
    "operand_error": OperandError(RECIPE),
    "block_scales": BlockScales(RECIPE),
    "gradient_fidelity": GradientFidelity(RECIPE),
}


def size(state):
    """Bytes of its tensors."""
    return pack(state).data.nbytes


@pytest.mark.parametrize("tokens", [8, 512])
def test_a_tensor_with_every_probe_that_sees_it_takes_at_most_64_kb(tokens):
    model = nn.Sequential(nn.Linear(CHANNELS, CHANNELS))
    probes = [ASKED.get(name, name) for name in (*PLAIN, *ASKED)]
    names = [getattr(probe, "name", probe) for probe in probes]
    taken = defaultdict(int)
    with qprobe.attach(model, probes=probes, schedule=dict.fromkeys(names, 1)) as session:
        x = torch.randn(4, tokens // 4, CHANNELS, requires_grad=True)
        for _ in range(2):
            model(x).square().mean().backward()
        session.read_weights()
        states, summaries = session._observer.take()
        for slot, state in states.items():
            taken[slot.site] += size(state)
        for site, summary in summaries.items():
            taken[site] += size(summary)
    assert {site.role for site in taken} >= {Role.INPUT, Role.WEIGHT, Role.GRAD_OUTPUT}
    assert max(taken.values()) <= LIMIT, {str(site): n for site, n in taken.items()}


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


def test_every_probe_is_measured_here():
    """A new probe has to say what it takes; those of few sums, or one histogram, are left out."""
    small = {"branch_energy", "output_error", "prediction_levels"}
    here = {*PLAIN, *ASKED, "attention_logits", "attention_maps", "softmax_levels"}
    assert set(PROBES.names()) - small - here == set()
