"""Scales, ranges and codes of operands, against the slow NVFP4 of the oracles."""

import math

import numpy as np
import pytest
import torch
from oracles import nvfp4 as oracle
from torch import nn

from qprobe.errors import InputError
from qprobe.probes.block_scales import BlockScales
from qprobe.records.schema import Role

AXES = {"fprop.x": 1, "wgrad.x": 0, "fprop.w": 1, "dgrad.w": 0}


@pytest.fixture
def views(look, generator):
    layer = nn.Linear(40, 24, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(24, 40, generator=generator) ** 3)
    x = torch.randn(50, 40, generator=generator).exp()
    x[:16, :16] *= 1e-7
    x[20:36] = 0.0
    x[5, 33:] = 0.0
    return look(layer, x)


def scalars(views, role, name):
    state = BlockScales(name).observe(views[role])
    return {key: value.item() for key, value in state.scalars().items()}


@pytest.mark.parametrize(
    ("key", "tile"),
    [*((key, "1d") for key in AXES), ("fprop.w", "2d"), ("dgrad.w", "2d")],
)
def test_rowwise_and_columnwise_are_the_slow_reference(key, tile, views):
    role = Role.WEIGHT if key.endswith("w") else Role.INPUT
    name, two_d = ("nvfp4", False) if tile == "1d" else ("nvfp4-2d-rht", True)
    x = views[role].tensor.numpy()
    expected = oracle.quantize(x, axis=AXES[key], two_d=two_d)
    state = BlockScales(name).observe(views[role])
    found = {k.removeprefix(f"{key}."): v.item() for k, v in state.scalars().items()}
    assert found["n"] == expected.scale.size
    assert state.parts[key].scales.n.item() == expected.scale.size
    assert found["zero_scale"] == (expected.scale == 0).mean()
    stored = np.log2(expected.scale[expected.scale > 0])
    assert found["scale_log2_mean"] == pytest.approx(stored.mean())
    assert found["scale_log2_max"] == pytest.approx(stored.max())
    counts = np.bincount(expected.codes.ravel(), minlength=16)
    assert state.arrays()[f"{key}.codes"].tolist() == counts.tolist()
    check_blocks(found, x, expected.dequant, AXES[key])


def check_blocks(found, x, dequant, axis):
    """Blocks one by one, in Python."""
    lost, filled, octaves = 0, 0, []
    for row, back in zip(np.moveaxis(x, axis, -1), np.moveaxis(dequant, axis, -1), strict=True):
        for at in range(0, len(row), 16):
            there = np.abs(row[at : at + 16].astype(np.float64))
            there = there[there > 0]
            if not len(there):
                continue
            filled += 1
            lost += not back[at : at + 16].any()
            octaves.append(math.log2(there.max() / there.min()))
    assert found["block_rounded_to_zero"] == pytest.approx(lost / filled)
    assert found["block_octaves_mean"] == pytest.approx(np.mean(octaves))
    assert 0 <= max(octaves) - found["block_octaves_max"] < 0.25


def test_small_blocks_are_lost_and_zero_blocks_are_not(views):
    found = scalars(views, Role.INPUT, "nvfp4")
    assert found["fprop.x.block_rounded_to_zero"] > 0.1
    assert found["fprop.x.block_zero"] == 48 / 150
    assert found["fprop.x.flushed"] == pytest.approx(16 / 150)


def test_a_rotated_operand_is_seen_where_it_is_rounded(views):
    """The rotation fills a block that had one element, so its range shrinks."""
    plain, turned = (scalars(views, Role.INPUT, name) for name in ("nvfp4-fwd", "nvfp4-fwd-rht"))
    assert turned["fprop.x.block_octaves_mean"] != plain["fprop.x.block_octaves_mean"]
    assert turned["fprop.x.elements"] == 50 * 48  # a partial group is filled up
    assert plain["fprop.x.elements"] == 50 * 40


def test_micro_batches_merge_to_the_sum(views, generator):
    state = BlockScales("nvfp4").observe(views[Role.INPUT])
    twice = state.merge(state.to("cpu"))
    once, both = state.scalars(), twice.scalars()
    for key, value in once.items():
        counted = key == "n" or key.endswith((".n", ".elements"))
        assert both[key].item() == pytest.approx(value.item() * (2 if counted else 1), rel=1e-14)
    for key, value in state.arrays().items():
        assert torch.equal(twice.arrays()[key], 2 * value)


def test_equal_amax_makes_split_and_whole_the_same(look, generator):
    x = torch.randn(64, 32, generator=generator)
    x[::16, 0] = 50.0
    layer, probe = nn.Linear(32, 8), BlockScales("nvfp4-fwd")
    whole, one, two = (probe.observe(look(layer, t)[Role.INPUT]) for t in (x, x[:16], x[16:]))
    merged = two.merge(one)
    for key, value in whole.scalars().items():
        assert merged.scalars()[key].item() == pytest.approx(value.item(), rel=1e-14)


def test_all_zero_has_no_distribution(look):
    found = BlockScales("nvfp4").observe(look(nn.Linear(16, 4), torch.zeros(3, 16))[Role.INPUT])
    values = found.scalars()
    assert values["fprop.x.zero_scale"] == values["fprop.x.block_zero"] == 1
    missing = {"scale_log2_mean", "block_octaves_mean", "block_rounded_to_zero", "range_octaves"}
    assert not {f"fprop.x.{key}" for key in missing} & set(values)


def test_nan_spoils_the_scales_and_is_counted(look, generator):
    x = torch.randn(4, 32, generator=generator)
    x[1, 2] = math.nan
    found = BlockScales("nvfp4").observe(look(nn.Linear(32, 4), x)[Role.INPUT]).scalars()
    assert found["fprop.x.block_nonfinite"] == 1 / 8
    assert found["fprop.x.invalid"] == 1


def test_stochastic_codes_are_not_those_of_nearest(look, generator):
    views = look(nn.Linear(16, 32), torch.randn(64, 16, generator=generator))
    one, other = (
        BlockScales(name).observe(views[Role.GRAD_OUTPUT]).arrays()["dgrad.dy.scales"]
        for name in ("nvfp4", "nvfp4-sr")
    )
    assert torch.equal(one, other)  # scales are computed alike


def test_integers_have_no_blocks(look):
    with pytest.raises(InputError, match="int4-tensor has no blocks"):
        BlockScales("int4-tensor")
