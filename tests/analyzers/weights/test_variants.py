"""Every variant, piece by piece, against the public quantizer on the whole weight."""

import pytest
import torch
import torch.nn.functional as F

from qprobe.analyzers.weights import dense, pieces
from qprobe.analyzers.weights.variants import VARIANTS
from qprobe.quant import (
    INT3,
    INT4,
    INT8,
    MXFP4,
    NVFP4,
    Granularity,
    QuantSpec,
    Tile,
    fake_quantize,
    rotate,
)  # fmt: skip


def whole_weight(name, x):
    if name == "nvfp4":
        return fake_quantize(x, QuantSpec(format=NVFP4), 1)
    if name == "nvfp4_2d":
        return fake_quantize(x, QuantSpec(format=NVFP4, tile=Tile.TWO_D), 1)
    if name == "mxfp4":
        return fake_quantize(x, QuantSpec(format=MXFP4), 1)
    if name == "nvfp4_rht":
        wide = F.pad(x, [0, 0] * (x.dim() - 2) + [0, -x.shape[1] % 16])
        turned = fake_quantize(rotate(wide, 1), QuantSpec(format=NVFP4), 1)
        return rotate(turned, 1, inverse=True)[:, : x.shape[1]]
    if name == "nvfp4_even":
        over = (0, *range(2, x.dim()))
        size = x.double().square().mean(over, keepdim=True).sqrt().float()
        return fake_quantize(x / size, QuantSpec(format=NVFP4), 1) * size
    form = {"int8": INT8, "int4": INT4, "int3": INT3}[name[:4]]
    if name.endswith("group"):
        rows = x.flatten(1)
        groups = F.pad(rows, (0, -rows.shape[1] % 128)).view(-1, 128)
        spec = QuantSpec(format=form, granularity=Granularity.TOKEN)
        return fake_quantize(groups, spec).view(len(x), -1)[:, : rows.shape[1]].view(x.shape)
    return fake_quantize(x, QuantSpec(format=form, granularity=Granularity(name[5:])), 0)


@pytest.mark.parametrize("shape", [(70, 96), (33, 40, 3, 3), (50, 24, 5)])
@pytest.mark.parametrize("name", VARIANTS)
def test_pieces_are_quantized_as_the_whole(name, shape, generator, monkeypatch):
    monkeypatch.setattr(pieces, "_PIECE", 1)  # one tile a piece
    x = torch.randn(*shape, generator=generator)
    x[7] *= 5.0  # the largest magnitude is in one piece only
    weight = dense.Weight(shape=shape, rows=lambda first, stop: x[first:stop])
    _, _, largest = dense._read(weight)
    size = x.double().square().mean((0, *range(2, x.dim()))).sqrt()
    whole = dense._whole(weight, largest, size)
    values = torch.cat([VARIANTS[name](piece, whole) for piece in weight.pieces()])
    expected = whole_weight(name, x)
    if name == "nvfp4_even":  # the sizes come from sums in another order
        assert (values - expected).norm() < 5e-3 * expected.norm()
    else:
        assert torch.equal(values, expected)
    assert len(list(weight.pieces())) > 1
