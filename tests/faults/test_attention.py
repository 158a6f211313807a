import pytest
import torch
import torch.nn.functional as functional
from faults.patients import patient
from torch import nn

from qprobe.errors import InputError
from qprobe.faults import candidates, plant
from qprobe.quant import convert


def test_logits_grow_by_the_query_rows_alone():
    one = patient("logit-growth")
    layer = one.model.blocks[1].attn.qkv
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    with plant(one.model, "logit-growth", "blocks.1.attn.qkv", strength=4.0) as planted:
        rows = len(weight) // 3
        assert torch.equal(layer.weight[:rows], 4.0 * weight[:rows])
        assert torch.equal(layer.weight[rows:], weight[rows:])
        assert torch.equal(layer.bias[:rows], 4.0 * bias[:rows])
    assert planted.sites == ("blocks.1.attn.qkv", "blocks.1.attn", "blocks.1.attn.product")


def test_the_offset_is_one_channel_of_the_keys_of_every_head():
    one = patient("key-offset")
    attention = one.model.blocks[1].attn
    bias = attention.qkv.bias.detach().clone()
    with plant(one.model, "key-offset", "blocks.1.attn.qkv", strength=10.0, seed=3):
        moved = (attention.qkv.bias - bias).detach().view(3, attention.heads, -1)
    assert (moved[1] != 0).sum(1).tolist() == [1] * attention.heads
    assert (moved[[0, 2]] == 0).all()
    assert (moved[1] != 0).any(0).sum() == 1  # the same channel in all heads


def test_an_attention_that_is_a_call_is_one_of_the_sites():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj, self.k_proj = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x):
            return functional.scaled_dot_product_attention(self.q_proj(x), self.k_proj(x), x)

    model = nn.Sequential(nn.Linear(32, 32), Attention(), nn.Linear(32, 4)).eval()
    convert(model, "nvfp4")
    x = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    with plant(model, "logit-growth", "1.q_proj", example=(x,)) as planted:
        assert planted.sites == ("1.q_proj", "1", "1/sdpa.0")
    with plant(model, "logit-growth", "1.q_proj") as planted:
        assert planted.sites == ("1.q_proj", "1")


def test_an_offset_needs_quantized_products():
    one = patient("logit-growth")
    assert candidates(one.model, "key-offset") == []
    assert len(candidates(one.model, "logit-growth")) == 4


def test_an_attention_that_hides_its_heads_is_named():
    one = patient("key-offset")
    one.model.blocks[0].attn.heads = None
    with pytest.raises(InputError, match=r"blocks\.0\.attn\.qkv does not say how many heads"):
        plant(one.model, "key-offset", "blocks.0.attn.qkv")


def test_layers_in_high_precision_are_no_candidates():
    one = patient("logit-growth")
    convert(one.model, "bf16")
    assert candidates(one.model, "logit-growth") == []
