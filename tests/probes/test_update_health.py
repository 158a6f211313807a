"""A weight that is moved by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from qprobe.errors import InputError
from qprobe.probes.base import PROBES, Probe, SiteView
from qprobe.probes.update_health import LIMIT, UpdateHealth
from qprobe.quant import convert
from qprobe.records.schema import Role
from qprobe.sites import Site

SITE = Site("0", Role.WEIGHT, "linear")


def at(layer, step, memory, site=SITE):
    weight = layer.weight.detach()
    return SiteView(site=site, module=layer, tensors={site.role: weight}, step=step, memory=memory)


def numbers(state):
    return {key: value.item() for key, value in state.to("cpu").scalars().items()}


def layer_of(values, recipe=None):
    layer = nn.Linear(len(values[0]), len(values))
    layer.weight.data = torch.tensor(values)
    model = nn.Sequential(layer)
    if recipe:
        convert(model, recipe, layers="all")
    return layer


def test_relative_update_and_the_steps_between():
    layer, memory, probe = layer_of([[3.0, 4.0]]), {}, UpdateHealth()
    assert probe.observe(at(layer, 10, memory)) is None
    layer.weight.data[0, 1] = 4.5
    assert numbers(probe.observe(at(layer, 30, memory))) == {
        "n": 2,
        "update_ratio": pytest.approx(0.1),
        "steps_between": 20,
    }


def test_a_planted_oscillation():
    """One of four codes goes there and back at every look; one leaves and stays away."""
    layer = layer_of([[6.0, 1.0, 1.0, 1.0]], "nvfp4")
    memory, probe = {}, UpdateHealth()
    probe.observe(at(layer, 0, memory))
    states = []
    for step, (second, third) in enumerate([(1.5, 2.0), (1.0, 2.0), (1.5, 2.0)], start=1):
        layer.weight.data[0, 1:3] = torch.tensor([second, third])
        states.append(probe.observe(at(layer, step, memory)))
    found = [numbers(state) for state in states]
    assert [one["flip_rate"] for one in found] == [0.5, 0.25, 0.25]
    assert [one["return_rate"] for one in found] == [0.0, 0.25, 0.25]
    merged = numbers(states[0].merge(states[1]).merge(states[2]))
    assert merged["n_codes"] == 12
    assert merged["flip_rate"] == 4 / 12
    assert merged["oscillation"] == 2 / 4
    assert merged["steps_between"] == 1


def test_codes_and_not_values_are_compared():
    """All weights doubled have the same codes under doubled scales."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    for recipe in ("nvfp4", "nvfp4-2d-rht", "int4-channel-token", "nvfp4-fwd-rht"):
        memory, probe = {}, UpdateHealth(recipe)
        probe.observe(at(layer, 0, memory))
        layer.weight.data *= 2.0
        found = numbers(probe.observe(at(layer, 1, memory)))
        assert found["flip_rate"] == 0.0
        assert found["update_ratio"] == pytest.approx(1.0)
        assert "oscillation" not in found


def test_minus_zero_is_zero():
    layer, memory, probe = layer_of([[6.0, 0.01]], "nvfp4"), {}, UpdateHealth()
    probe.observe(at(layer, 0, memory))
    layer.weight.data[0, 1] = -0.01
    assert numbers(probe.observe(at(layer, 1, memory)))["flip_rate"] == 0.0


@pytest.mark.parametrize(
    ("layer", "recipe"),
    [
        (nn.Conv2d(32, 16, 3, groups=2), "nvfp4-2d-rht-sr"),
        (nn.ConvTranspose3d(16, 24, 2), "nvfp4"),
        (nn.Conv1d(16, 16, 3), "int4-adaptive"),
    ],
)
def test_convolutions_have_codes_too(layer, recipe):
    memory, probe = {}, UpdateHealth(recipe, limit=4096)
    site = Site("0", Role.WEIGHT, "conv")
    probe.observe(at(layer, 0, memory, site))
    layer.weight.data.neg_()
    found = numbers(probe.observe(at(layer, 1, memory, site)))
    zeros = memory["codes"] == 0
    assert found["flip_rate"] == pytest.approx(1 - zeros.double().mean().item())
    assert found["n_codes"] == layer.weight.numel()


def test_memory_is_bounded_and_the_sample_sees_all_columns():
    torch.manual_seed(0)
    layer, memory, probe = nn.Linear(768, 3072), {}, UpdateHealth("nvfp4")
    probe.observe(at(layer, 0, memory))
    before = layer.weight.detach().clone()
    layer.weight.data[:, 5::64] += 1.0
    found = numbers(probe.observe(at(layer, 1, memory)))
    kept = [memory[name] for name in ("weight", "codes", "left")]
    assert sum(one.untyped_storage().nbytes() for one in kept) <= 6 * LIMIT
    assert LIMIT / 2 < found["n"] <= LIMIT
    exact = ((layer.weight - before).norm() / before.norm()).item()
    assert found["update_ratio"] == pytest.approx(exact, rel=0.35)  # about 32 of 2048 hit


def test_another_recipe_starts_over():
    layer, memory = layer_of([[6.0, 1.0]]), {}
    UpdateHealth("nvfp4").observe(at(layer, 0, memory))
    assert UpdateHealth("int4-tensor").observe(at(layer, 1, memory)) is None
    assert UpdateHealth("int4-tensor").observe(at(layer, 2, memory)) is not None


def test_what_it_remembers_is_its_own():
    layer, memory, probe = layer_of([[3.0, 4.0]]), {}, UpdateHealth()
    probe.observe(at(layer, 0, memory))
    layer.weight.data.zero_()
    assert numbers(probe.observe(at(layer, 1, memory)))["update_ratio"] == 1.0
    assert "update_ratio" not in numbers(probe.observe(at(layer, 2, memory)))  # of a zero weight


def test_a_norm_has_no_codes():
    norm, memory, probe = nn.LayerNorm(8), {}, UpdateHealth("nvfp4")
    site = Site("0", Role.WEIGHT, "norm")
    probe.observe(at(norm, 0, memory, site))
    assert set(numbers(probe.observe(at(norm, 1, memory, site)))) == {
        "n",
        "update_ratio",
        "steps_between",
    }


def test_an_empty_weight_shows_nothing():
    view = at(nn.Linear(2, 2), 0, {})
    assert UpdateHealth().observe(replace(view, tensors={Role.WEIGHT: torch.zeros(0, 2)})) is None


def test_it_is_registered():
    probe = PROBES.get("update_health")
    assert isinstance(probe, Probe)
    assert probe.selects(SITE)
    assert not probe.selects(Site("0", Role.GRAD_WEIGHT, "linear"))
    with pytest.raises(InputError, match="at least one element"):
        UpdateHealth(limit=0)
