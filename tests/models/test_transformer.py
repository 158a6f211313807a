import pytest
import torch
from torch import nn

from qprobe.models import build
from qprobe.models.transformer import GlobalAttention, StochasticDepth


def test_stochastic_depth_is_unbiased_and_drops_whole_samples():
    torch.manual_seed(0)
    rate, n = 0.3, 20_000
    branch = torch.randn(3).expand(n, 3)
    out = StochasticDepth(rate).train()(branch)
    kept = out[:, 0] != 0
    torch.testing.assert_close(out[kept], branch[kept] / (1 - rate))
    assert not out[~kept].any()
    # Share of kept samples within five standard errors of the rate.
    assert abs(kept.float().mean().item() - (1 - rate)) < 5 * (rate * (1 - rate) / n) ** 0.5


def test_stochastic_depth_is_the_identity_outside_training():
    x = torch.randn(4, 2)
    assert StochasticDepth(0.5).eval()(x) is x
    assert StochasticDepth(0.0).train()(x) is x


def test_attention_equals_pytorchs_with_the_same_weights():
    torch.manual_seed(1)
    ours = GlobalAttention(24, 3, 0.0).double()
    theirs = nn.MultiheadAttention(24, 3, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_products_of_attention_can_be_replaced():
    """Whatever stands at ``attn.product`` makes the attention: recipes rely on it."""

    class FirstKey(nn.Module):
        def forward(self, q, k, v, bias=None):
            return v[..., :1, :].expand_as(v)

    attention = GlobalAttention(8, 2, 0.0)
    attention.product = FirstKey()
    out = attention(torch.randn(1, 5, 8))
    torch.testing.assert_close(out, out[:, :1].expand_as(out))


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_initial_weights_are_truncated_normal(name):
    model = build(name, "500k")
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), path
            assert module.weight.mean().abs().item() < 0.002, path
            assert not module.bias.any(), path
    assert model.position_embed.std().item() == pytest.approx(0.02, rel=0.1)
    if name == "swin":
        assert all(block.attn.bias_table.std() > 0.01 for block in model.blocks)
    else:
        assert model.class_token.std() > 0.01


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_drop_path_grows_from_zero_to_its_rate(name):
    rates = [block.depth.rate for block in build(name, "500k", drop_path=0.18).blocks]
    assert rates == pytest.approx([0.02 * block for block in range(10)])
