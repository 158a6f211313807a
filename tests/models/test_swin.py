import itertools

import pytest
import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.models import build
from qprobe.models.swin import (
    SwinConfig,
    WindowAttention,
    partition,
    relative_index,
    reunite,
    shift_mask,
)

# (grid, window, shift): dividing, not dividing, window as large as the grid and larger, oblong.
TILINGS = [
    ((8, 8), 4, 0),
    ((8, 8), 4, 2),
    ((6, 6), 4, 2),
    ((6, 6), 4, 0),
    ((4, 4), 4, 2),
    ((3, 3), 4, 2),
    ((8, 4), 4, 2),
    ((5, 7), 3, 1),
    ((5, 7), 1, 0),
]


def attention(grid: tuple[int, int], window: int, shift: int) -> WindowAttention:
    torch.manual_seed(3)
    config = SwinConfig(
        image=(4 * grid[0], 4 * grid[1]),
        in_channels=3,
        classes=1,
        patch=4,
        embed=8,
        depth=2,
        heads=2,
        mlp_ratio=2,
        window=window,
        dropout=0.0,
    )
    module = WindowAttention(config, shift).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def tiles(side: int, window: int, shift: int) -> list[range]:
    """The shifted tiling of one axis, cut off at the edges instead of rolled around."""
    starts = range(shift - window if shift else 0, side, window)
    return [range(max(0, start), min(side, start + window)) for start in starts]


def tile_by_tile(module: WindowAttention, x: Tensor) -> Tensor:
    """No roll, no padding, no mask: every tile is gathered and attended to by itself."""
    (height, width), window, shift = module.grid, module.window, module.shift
    out = torch.zeros_like(x)
    for rows, columns in itertools.product(
        tiles(height, window, shift), tiles(width, window, shift)
    ):
        places = list(itertools.product(rows, columns))
        index = torch.tensor([r * width + c for r, c in places])
        if len(index):
            out[:, index] = one_tile(module, x[:, index], places)
    return out @ module.proj.weight.T + module.proj.bias


def one_tile(module: WindowAttention, x: Tensor, places: list[tuple[int, int]]) -> Tensor:
    span, embed = 2 * module.window - 1, x.shape[-1]
    size = embed // module.heads
    qkv = x @ module.qkv.weight.T + module.qkv.bias
    heads = []
    for head in range(module.heads):
        at = slice(head * size, (head + 1) * size)
        q, k, v = (qkv[..., part * embed : (part + 1) * embed][..., at] for part in range(3))
        logits = q @ k.transpose(1, 2) / size**0.5
        for i, (r, c) in enumerate(places):
            for j, (s, d) in enumerate(places):
                row = (r - s + module.window - 1) * span + (c - d + module.window - 1)
                logits[:, i, j] += module.bias_table[row, head]
        heads.append(logits.softmax(-1) @ v)
    return torch.cat(heads, -1)


def all_pairs(module: WindowAttention, x: Tensor) -> Tensor:
    """Dense attention over the whole grid; a pair in different tiles gets weight zero."""
    (height, width), window = module.grid, module.window
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    tile = torch.stack(((row - module.shift) // window, (column - module.shift) // window))
    same = (tile[:, :, None] == tile[:, None, :]).all(0)
    down = (row[:, None] - row[None, :]).clamp(1 - window, window - 1) + window - 1
    across = (column[:, None] - column[None, :]).clamp(1 - window, window - 1) + window - 1
    table = module.bias_table.view(2 * window - 1, 2 * window - 1, -1)
    bias = table[down, across].permute(2, 0, 1)
    q, k, v = (
        part.unflatten(-1, (module.heads, -1)).transpose(1, 2)
        for part in (x @ module.qkv.weight.T + module.qkv.bias).chunk(3, -1)
    )
    weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias).exp() * same
    heads = (weights / weights.sum(-1, keepdim=True)) @ v
    return heads.transpose(1, 2).flatten(2) @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize(("grid", "window", "shift"), TILINGS)
def test_window_attention_equals_two_references_without_roll_or_padding(grid, window, shift):
    module = attention(grid, window, shift)
    x = torch.randn(3, grid[0] * grid[1], 8, dtype=torch.float64)
    with torch.no_grad():
        got = module(x)
        torch.testing.assert_close(got, tile_by_tile(module, x), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(got, all_pairs(module, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("grid", "window", "shift"), [((6, 6), 4, 2), ((8, 8), 4, 2)])
def test_gradients_equal_the_dense_reference(grid, window, shift):
    module = attention(grid, window, shift)
    x = torch.randn(2, grid[0] * grid[1], 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, grid[0] * grid[1], 8, dtype=torch.float64)
    wanted = [x, *module.parameters()]
    got = torch.autograd.grad((module(x) * weights).sum(), wanted)
    reference = torch.autograd.grad((all_pairs(module, x) * weights).sum(), wanted)
    for one, other in zip(got, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(1, 4, 4, 3), (2, 8, 4, 1), (3, 6, 9, 2)])
def test_reunite_inverts_partition(shape):
    window = 4 if shape[1] % 4 == 0 else 3
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
    windows = partition(x, window)
    assert windows.shape[1:] == (window**2, shape[-1])
    assert windows[0, 1].equal(x[0, 0, 1]), "tokens of a window go row by row"
    assert reunite(windows, shape[1:3], window).equal(x)


def test_relative_index_reaches_every_row_of_the_table():
    index = relative_index(3)
    assert sorted(set(index.flatten().tolist())) == list(range(25))
    assert index.diagonal().unique().tolist() == [12]


def test_mask_is_absent_where_every_pair_of_a_window_may_attend():
    assert shift_mask((8, 8), 4, 0) is None


def test_mask_of_a_rolled_window_by_hand():
    """A 4×4 grid, one window, shift 2: after the roll the quarters come from four corners."""
    mask = shift_mask((4, 4), 4, 2)
    assert mask is not None
    assert mask.shape == (1, 16, 16)
    open_to_first = (mask[0, 0] == 0).view(4, 4).int().tolist()
    assert open_to_first == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("size", "count"), [("500k", 496_305), ("4m", 3_646_687), ("15m", 13_987_513)]
)
def test_parameter_counts_of_the_study(size, count):
    assert sum(p.numel() for p in build("swin", size, image=256).parameters()) == count


def test_odd_blocks_shift_by_half_a_window():
    model = build("swin", "4m", image=64)
    shifts = [block.attn.shift for block in model.blocks]
    assert shifts == [0, 4, 0, 4, 0, 4, 0, 4, 0]


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="embed 32 cannot be split into 5 heads"):
        build("swin", "tiny", heads=5)
