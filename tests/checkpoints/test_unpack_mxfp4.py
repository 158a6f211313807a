"""MXFP4 and smoothed NVFP4 against the libraries that write and read them, and plain loops."""

import importlib.util

import pytest
import torch
from safetensors.torch import save_file

from qprobe import checkpoints
from qprobe.checkpoints import Layout
from qprobe.errors import InputError
from qprobe.quant.formats import E2M1, MXFP4

LEVELS = [*E2M1.magnitudes, *(-m for m in E2M1.magnitudes)]


def opened(tensors, path):
    save_file({name: one.contiguous() for name, one in tensors.items()}, path / "m.safetensors")
    return checkpoints.open(path / "m.safetensors")


def by_hand(packed, exponents):
    """Rows of bytes, low half first, under ``2^(e − 127)`` for each 32 of them."""
    rows = []
    for bytes_, scales in zip(packed.tolist(), exponents.tolist(), strict=True):
        codes = [code for byte in bytes_ for code in (byte & 15, byte >> 4)]
        rows.append([LEVELS[c] * 2.0 ** (scales[i // 32] - 127) for i, c in enumerate(codes)])
    return torch.tensor(rows)


@pytest.fixture
def parts(generator):
    packed = torch.randint(0, 256, (6, 32), generator=generator, dtype=torch.uint8)
    return packed, torch.randint(110, 135, (6, 2), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e8m0fnu])
@pytest.mark.parametrize(
    ("name", "layout"),
    [("weight", Layout.MODELOPT_MXFP4), ("weight_packed", Layout.MXFP4_PACK_QUANTIZED)],
)
def test_codes_under_exponents(name, layout, dtype, parts, tmp_path):
    packed, scale = parts
    tensors = {f"fc.{name}": packed, "fc.weight_scale": scale.view(dtype), "fc.bias": torch.ones(6)}
    found = opened(tensors, tmp_path)
    assert set(found.weights) == {"fc.weight", "fc.bias"}
    ours = found.read("fc.weight")
    assert (ours.layout, ours.format, ours.shape) == (layout, MXFP4, (6, 64))
    assert torch.equal(ours.values(), by_hand(packed, scale))
    assert torch.equal(ours.rows(2, 4).values(), ours.values()[2:4])


def test_mxfp4_of_compressed_tensors_to_the_bit(generator, tmp_path):
    if importlib.util.find_spec("compressed_tensors") is None:
        pytest.skip("compressed-tensors is not installed")
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weight = torch.randn(8, 64, generator=generator) * 0.02
    scale = torch.exp2((weight.unflatten(1, (-1, 32)).abs().amax(2) / 6).log2().ceil())
    args = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    compressor = BaseCompressor.get_value_from_registry("mxfp4-pack-quantized")
    packed = compressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    theirs = compressor.decompress(dict(packed), scheme)["weight"]
    ours = opened({f"fc.{k}": v for k, v in packed.items()}, tmp_path).read("fc.weight")
    assert torch.equal(ours.values().to(theirs.dtype), theirs)
    assert (ours.values() - weight).norm() / weight.norm() < 0.15


@pytest.mark.parametrize("ending", ["_", "."])
def test_experts_of_gpt_oss(ending, generator, tmp_path):
    """Against what Hugging Face makes of them, where it is installed, and by hand."""
    blocks = torch.randint(0, 256, (3, 5, 2, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(110, 135, (3, 5, 2), generator=generator, dtype=torch.uint8)
    stem = "model.layers.0.mlp.experts.down_proj"
    tensors = {f"{stem}{ending}blocks": blocks, f"{stem}{ending}scales": scales}
    tensors[f"{stem}_bias"] = torch.zeros(3, 5)
    found = opened(tensors, tmp_path)
    assert set(found.weights) == {stem, f"{stem}_bias"}
    assert found.packed == {Layout.MXFP4_EXPERTS}
    ours = found.read(stem).values()
    assert torch.equal(ours, by_hand(blocks.view(15, 32), scales.view(15, 2)))
    if importlib.util.find_spec("transformers") is None:
        return
    from transformers.integrations import mxfp4

    theirs = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    if theirs.shape[1] != 5:  # some versions give [experts, in, out]
        theirs = theirs.transpose(1, 2)
    assert torch.equal(ours.view(3, 5, 64), theirs)


def test_the_scale_of_inputs_belongs_to_the_weight(generator, tmp_path):
    """(x·s)·Wᵀ = x·(W·s)ᵀ: a model without the scale of its inputs needs the weight times it."""
    packed = torch.randint(0, 256, (4, 16), generator=generator, dtype=torch.uint8)
    smoothing = (torch.rand(32, generator=generator) + 0.5).bfloat16()
    tensors = {
        "fc.weight": packed,
        "fc.weight_scale": torch.full((4, 2), 2.0).to(torch.float8_e4m3fn),
        "fc.weight_scale_2": torch.tensor(0.25),
    }
    (tmp_path / "plain").mkdir()
    plain = opened(tensors, tmp_path / "plain").read("fc.weight").values()
    ours = opened(tensors | {"fc.pre_quant_scale": smoothing}, tmp_path).read("fc.weight")
    x = torch.randn(3, 32, generator=generator)
    torch.testing.assert_close(x @ ours.values().T, (x * smoothing.float()) @ plain.T)
    assert torch.equal(ours.rows(1, 3).values(), ours.values()[1:3])


CODES = torch.zeros(4, 16, dtype=torch.uint8)
SCALES = torch.full((4, 1), 127, dtype=torch.uint8)
BLOCKS = torch.zeros(2, 3, 1, 16, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"fc.weight": CODES, "fc.weight_scale": SCALES[:3]}, r"\[3, 1\] where \[4, 1\]"),
        ({"fc.weight": CODES[:, :8], "fc.weight_scale": SCALES}, "no multiple of 32"),
        ({"e_blocks": BLOCKS}, "has no 'e_scales'"),
        ({"e_blocks": BLOCKS, "e_scales": torch.ones(2, 3, 1)}, "scales of torch.float32"),
        ({"e_blocks": BLOCKS, "e_scales": SCALES}, r"where \[2, 3, 1\]"),
        (
            {"e_blocks": BLOCKS, "e_scales": torch.zeros(2, 3, 1).byte(), "e": torch.ones(2)},
            "once more beside",
        ),
        (
            {"fc.weight": CODES, "fc.weight_scale": SCALES, "fc.pre_quant_scale": torch.ones(31)},
            "32 floats, one an input",
        ),
    ],
)
def test_parts_that_do_not_belong_together_are_named(tensors, says, tmp_path):
    found = opened(tensors, tmp_path)
    with pytest.raises(InputError, match=says):
        [found.read(name) for name in found.weights]
