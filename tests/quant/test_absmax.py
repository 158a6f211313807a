import torch

from qprobe.quant import INT4, NVFP4, Granularity, Operand, QuantSpec, Tile
from qprobe.quant.absmax import group_absmax

TENSOR = Operand(axes=1, spec=QuantSpec(format=INT4, granularity=Granularity.TENSOR))
BLOCKS = Operand(axes=1, spec=QuantSpec(format=NVFP4))
TILES = Operand(axes=1, spec=QuantSpec(format=NVFP4, tile=Tile.TWO_D), partner=0)


def test_blocks_and_tiles_by_hand():
    x = torch.arange(32.0).repeat(32, 1) + torch.arange(32.0)[:, None]
    assert torch.equal(group_absmax(x, BLOCKS)[0, ::16], torch.tensor([15.0, 31.0]))
    assert torch.equal(group_absmax(x, TILES)[0, ::16], torch.tensor([30.0, 46.0]))
    assert group_absmax(x, TENSOR).unique().tolist() == [62.0]
