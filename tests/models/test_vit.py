import pytest
import torch
from torch import nn

from qprobe.errors import InputError
from qprobe.models import build


@pytest.mark.parametrize(
    ("size", "count"), [("500k", 494_473), ("4m", 3_634_921), ("15m", 13_880_777)]
)
def test_parameter_counts_of_the_study(size, count):
    assert sum(p.numel() for p in build("vit", size, image=256).parameters()) == count


def test_decoded_are_the_patches_and_not_the_class_token():
    model = build("vit", "tiny").eval()
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    tokens = []
    model.norm.register_forward_hook(lambda *args: tokens.append(args[-1]))
    model(torch.randn(1, 3, 64, 64))
    assert seen[0].equal(tokens[0][:, 1:])


def test_class_token_takes_part_in_attention():
    model = build("vit", "tiny").eval()
    x = torch.randn(1, 3, 64, 64)
    before = model(x)
    with torch.no_grad():
        model.class_token.normal_()
    assert not torch.allclose(before, model(x), atol=1e-4)


def test_whole_encoder_equals_pytorchs_transformer():
    """nn.TransformerEncoder with the same weights is the foreign reference of all blocks."""
    model = build("vit", "tiny", dropout=0.0, drop_path=0.0).double().eval()
    for parameter in model.blocks.parameters():
        nn.init.normal_(parameter, std=0.2)
    layer = nn.TransformerEncoderLayer(
        32, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    foreign = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).double().eval()
    with torch.no_grad():
        for theirs, ours in zip(foreign.layers, model.blocks, strict=True):
            theirs.self_attn.in_proj_weight.copy_(ours.attn.qkv.weight)
            theirs.self_attn.in_proj_bias.copy_(ours.attn.qkv.bias)
            theirs.self_attn.out_proj.load_state_dict(ours.attn.proj.state_dict())
            theirs.linear1.load_state_dict(ours.mlp.fc1.state_dict())
            theirs.linear2.load_state_dict(ours.mlp.fc2.state_dict())
            theirs.norm1.load_state_dict(ours.norm1.state_dict())
            theirs.norm2.load_state_dict(ours.norm2.state_dict())
        x = torch.randn(2, 65, 32, dtype=torch.float64)
        torch.testing.assert_close(model.blocks(x), foreign(x), rtol=1e-9, atol=1e-9)


def test_image_of_another_size_is_refused_by_both_sizes():
    with pytest.raises(InputError, match=r"built for images of 64x64 .*\(1, 3, 32, 64\)"):
        build("vit", "tiny")(torch.zeros(1, 3, 32, 64))
