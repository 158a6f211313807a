import torch

from qprobe.models.decoder import Decoder


def test_channels_halve_down_to_eight():
    decoder = Decoder((2, 2), 64, 4, 3)
    assert [stage.up.out_channels for stage in decoder.stages] == [32, 16, 8, 8]
    assert [stage.norm.num_groups for stage in decoder.stages] == [8, 8, 8, 8]
    assert decoder.head.out_channels == 3


def test_groups_divide_widths_that_eight_does_not():
    assert Decoder((2, 2), 36, 1, 1).stages[0].norm.num_groups == 6


def test_a_token_reaches_its_own_patch_and_no_other():
    """With the norms set aside each token is decoded alone: a change stays in its patch."""
    torch.manual_seed(0)
    decoder = Decoder((2, 3), 16, 2, 1)
    for stage in decoder.stages:
        stage.norm = torch.nn.Identity()
    tokens = torch.randn(1, 6, 16)
    changed = tokens.clone()
    changed[0, 4] += 1.0
    moved = (decoder(changed) != decoder(tokens))[0, 0]
    assert moved.shape == (8, 12)
    assert moved[4:, 4:8].any()
    moved[4:, 4:8] = False
    assert not moved.any()
