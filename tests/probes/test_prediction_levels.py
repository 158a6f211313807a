"""Levels counted by numpy, on what layers of a converted model return."""

import numpy as np
import pytest
import torch
from seen import one_step, view
from torch import nn

from qprobe.errors import InputError
from qprobe.probes.base import PROBES, ChoosingProbe
from qprobe.probes.prediction_levels import Activation, OutputLevels
from qprobe.quant import convert
from qprobe.records.schema import Role
from qprobe.sites import Site, discover


def levels(p):
    """exp of the entropy of bins of 1/64 octave of min(p, 1 − p), in [2⁻²⁰, 1]."""
    bins = np.floor(np.log2(p) * 64)
    _, counts = np.unique(bins, return_counts=True)
    shares = counts / counts.sum()
    return np.exp(-(shares * np.log(shares)).sum())


def numbers(state):
    return {key: value.item() for key, value in state.to("cpu").scalars().items()}


def observed(probe, seen):
    with torch.no_grad():
        return numbers(probe.observe(seen))


def sigmoid(z):
    p = 1 / (1 + np.exp(-z))
    return np.minimum(p, 1 - p)


def softmax(z, axis):
    e = np.exp(z - z.max(axis, keepdims=True))
    p = e / e.sum(axis, keepdims=True)
    return np.minimum(p, 1 - p)


HEADS = {
    "sigmoid of a linear": (lambda: nn.Linear(32, 1), (64, 32), sigmoid),
    "softmax of a linear": (lambda: nn.Linear(32, 5), (40, 32), lambda z: softmax(z, -1)),
    "sigmoid of a convolution": (lambda: nn.Conv2d(16, 1, 1), (3, 16, 9, 8), sigmoid),
    "softmax of a convolution": (
        lambda: nn.ConvTranspose2d(16, 4, 2, stride=2, bias=False),
        (2, 16, 5, 5),
        lambda z: softmax(z, 1),
    ),
}


def twins(head, recipe="int4-tensor"):
    """A plain layer and a converted one of the same weights, and their logits in float64."""
    torch.manual_seed(1)
    make, shape, activate = HEADS[head]
    plain = nn.Sequential(make())
    quantized = nn.Sequential(make())
    quantized.load_state_dict(plain.state_dict())
    convert(quantized, recipe, layers="all")
    x = torch.randn(shape)
    logits = [model(x).detach().double().numpy() for model in (plain, quantized)]
    return plain, quantized, x, [activate(z) for z in logits]


@pytest.mark.parametrize("head", HEADS)
def test_the_recipe_in_force_and_the_same_asked_for(head):
    plain, quantized, x, (before, after) = twins(head)
    kept = (before >= 2.0**-20) & (after >= 2.0**-20)
    seen = one_step(quantized, x)
    found = observed(OutputLevels(), view(quantized, seen, "0", Role.OUTPUT))
    assert found["n"] == kept.sum()
    # A probability at the edge of a bin may be counted beside it.
    assert found["levels"] == pytest.approx(levels(before[kept]), rel=0.02)
    assert found["levels_quantized"] == pytest.approx(levels(after[kept]), rel=0.02)
    seen = one_step(plain, x)
    asked = OutputLevels(recipe="int4-tensor")
    assert observed(asked, view(plain, seen, "0", Role.OUTPUT)) == pytest.approx(found, rel=0.02)


def test_a_staircase_is_seen():
    """INT4 has 15 codes for 200 different logits from −8 to 8, which come in pairs ±z."""
    model = nn.Sequential(nn.Linear(1, 1))
    nn.init.constant_(model[0].weight, 8.0)
    nn.init.zeros_(model[0].bias)
    convert(model, "int4-tensor", layers="all")
    x = torch.linspace(-1, 1, 200)[:, None]
    found = observed(OutputLevels(), view(model, one_step(model, x), "0", Role.OUTPUT))
    assert found["levels_quantized"] <= 8
    assert found["levels"] > 80


def test_several_labels_are_sigmoids():
    plain, _, x, _ = twins("softmax of a linear")
    seen = view(plain, one_step(plain, x), "0", Role.OUTPUT)
    found = observed(OutputLevels(activation="sigmoid", recipe="int4-tensor"), seen)
    p = sigmoid(plain(x).detach().double().numpy())
    assert found["levels"] == pytest.approx(levels(p), rel=0.02)


def test_parts_of_a_batch_merge_to_the_whole():
    """In high precision each row is by itself, so the reference of parts is that of the whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 1))
    x = torch.randn(30, 16)
    probe = OutputLevels(recipe="int4-channel-token")  # one scale a row
    parts = []
    for rows in (x[:7], x[7:], x):
        seen = view(model, one_step(model, rows), "0", Role.OUTPUT)
        with torch.no_grad():
            parts.append(probe.observe(seen))
    merged = parts[0].merge(parts[1])
    assert numbers(merged) == pytest.approx(numbers(parts[2]), rel=0.05)
    assert numbers(merged)["n"] == 30


@pytest.mark.parametrize("recipe", [None, "bf16"])
def test_without_a_recipe_there_is_nothing_to_see(recipe):
    model = nn.Sequential(nn.Linear(4, 1))
    seen = view(model, one_step(model, torch.randn(3, 4)), "0", Role.OUTPUT)
    assert OutputLevels(recipe=recipe).observe(seen) is None


def test_an_empty_batch_shows_nothing():
    model = nn.Sequential(nn.Linear(4, 1))
    seen = view(model, one_step(model, torch.randn(0, 4)), "0", Role.OUTPUT)
    assert OutputLevels(recipe="nvfp4").observe(seen) is None


def test_the_last_layer_or_the_one_that_is_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 2, 1), nn.LayerNorm(2))
    sites = discover(model)

    def chosen(probe):
        return list(probe.choose([site for site in sites if probe.selects(site)]))

    assert chosen(OutputLevels()) == [Site("2", Role.OUTPUT, "conv1d")]
    assert chosen(OutputLevels("0")) == [Site("0", Role.OUTPUT, "linear")]
    assert chosen(OutputLevels("nowhere")) == []


def test_it_is_registered_and_refuses_other_activations():
    assert isinstance(PROBES.get("prediction_levels"), ChoosingProbe)
    assert OutputLevels(activation=Activation.SOFTMAX).name == "prediction_levels"
    with pytest.raises(InputError, match="activation is one of 'auto', 'sigmoid', 'softmax'"):
        OutputLevels(activation="tanh")
