"""Eight bits beside their scales, against the weights that they were made of."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qprobe import checkpoints
from qprobe.checkpoints import Layout
from qprobe.errors import InputError

F8 = torch.float8_e4m3fn


def opened(tensors, path):
    save_file({name: t.clone().contiguous() for name, t in tensors.items()}, path / "m.safetensors")
    return checkpoints.open(path / "m.safetensors")


def blocks(weight, size=128):
    """The largest magnitude of each block, by a plain loop."""
    rows, columns = -(-weight.shape[0] // size), -(-weight.shape[1] // size)
    found = torch.zeros(rows, columns)
    for r in range(rows):
        for c in range(columns):
            part = weight[r * size : (r + 1) * size, c * size : (c + 1) * size]
            found[r, c] = part.abs().max()
    return found


@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("shape", [(256, 384), (300, 200)])
def test_float8_in_blocks_comes_back(name, shape, generator, tmp_path):
    weight = torch.randn(*shape, generator=generator) * torch.linspace(0.01, 3.0, shape[1])
    scale = blocks(weight) / 448.0
    wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    codes = (weight / wide).to(F8)
    found = opened({"fc.weight": codes, f"fc.{name}": scale, "fc.bias": torch.ones(4)}, tmp_path)
    assert found.packed == {Layout.SCALED}
    assert set(found.weights) == {"fc.weight", "fc.bias"}
    assert torch.equal(found.read("fc.weight"), codes.float() * wide)
    assert (found.read("fc.weight") - weight).norm() < 0.04 * weight.norm()


@pytest.mark.parametrize("shape", [(), (1,), (24,), (24, 1)])
@pytest.mark.parametrize("zero", [False, True])
def test_int8_with_one_scale_or_one_an_output(shape, zero, generator, tmp_path):
    codes = torch.randint(-128, 128, (24, 40), generator=generator).to(torch.int8)
    scale = torch.rand(shape, generator=generator) + 0.5
    parts = {"fc.weight": codes, "fc.weight_scale": scale}
    middle = torch.randint(-9, 9, shape, generator=generator).to(torch.int8)
    if zero:
        parts["fc.weight_zero_point"] = middle
    column = scale.reshape(-1, 1)
    want = (codes.float() - (middle.reshape(-1, 1).float() if zero else 0.0)) * column
    assert torch.equal(opened(parts, tmp_path).read("fc.weight"), want)


def test_int8_of_bitsandbytes(generator, tmp_path):
    weight = torch.randn(16, 32, generator=generator)
    largest = weight.abs().amax(1)
    codes = (weight / largest[:, None] * 127).round().to(torch.int8)
    read = opened({"fc.weight": codes, "fc.SCB": largest}, tmp_path).read("fc.weight")
    assert (read - weight).abs().max() <= 0.5 * largest.max() / 127 * 1.001


def test_exponents_are_scales_of_32_inputs(generator, tmp_path):
    codes = torch.randn(8, 64, generator=generator).to(F8)
    scale = torch.tensor([[120, 130]] * 8, dtype=torch.uint8)
    read = opened({"fc.weight": codes, "fc.weight_scale": scale}, tmp_path).read("fc.weight")
    factors = torch.tensor([2.0**-7] * 32 + [2.0**3] * 32)
    assert torch.equal(read, codes.float() * factors)


def test_scales_of_another_weight_are_refused(tmp_path):
    parts = {"fc.weight": torch.zeros(24, 40, dtype=torch.int8), "fc.weight_scale": torch.ones(7)}
    with pytest.raises(InputError, match=r"'fc.weight' \[24, 40\] has weight_scale \[7\]"):
        opened(parts, tmp_path).read("fc.weight")


def test_a_model_gets_the_numbers(tmp_path):
    codes = torch.full((3, 2), 4, dtype=torch.int8)
    parts = {"weight": codes, "weight_scale": torch.tensor([0.5, 1.0, 2.0])}
    model = nn.Linear(2, 3, bias=False)
    checkpoints.load_into(model, opened(parts, tmp_path))
    assert model.weight.tolist() == [[2.0, 2.0], [4.0, 4.0], [8.0, 8.0]]
