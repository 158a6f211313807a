"""Which weights store their inputs first, on the layers that do."""

import pytest
import torch
from torch import nn

from qprobe.analyzers.weights.orientation import inputs_first


def stored(opened, model):
    return opened(dict(model.state_dict())).weights


def test_a_transposed_convolution_beside_plain_ones(opened):
    model = nn.ModuleDict(
        {
            "up": nn.ConvTranspose2d(64, 32, 2, stride=2),
            "conv": nn.Conv2d(32, 16, 3),
            "square": nn.Conv2d(32, 32, 3),
            "out": nn.Linear(32, 8),
        }
    )
    assert inputs_first(stored(opened, model)) == {"up.weight"}


def test_square_weights_are_as_those_that_can_be_told(opened):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64, n_positions=16)
    model = transformers.GPT2Model(config)
    found = inputs_first(stored(opened, model))
    assert found == {
        f"h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


@pytest.mark.parametrize("bias", [True, False])
def test_plain_layers_are_plain(bias, opened):
    model = nn.Sequential(nn.Linear(8, 24, bias), nn.Linear(24, 24, bias), nn.LayerNorm(24))
    assert inputs_first(stored(opened, model)) == frozenset()


def test_a_bias_of_another_length_says_nothing(opened):
    weights = opened({"a.weight": torch.zeros(8, 16), "a.bias": torch.zeros(5)}).weights
    assert inputs_first(weights) == frozenset()
