"""Packed weights against the libraries that write them, and against plain loops."""

import importlib.util

import pytest
import torch
from safetensors.torch import save_file

from qprobe import checkpoints
from qprobe.checkpoints import Layout
from qprobe.errors import InputError
from qprobe.quant.formats import E2M1, NVFP4
from qprobe.stats.codes import e2m1_values

LEVELS = [*E2M1.magnitudes, *(-m for m in E2M1.magnitudes)]


def opened(tensors, path, config=None):
    import json

    if config is not None:
        (path / "config.json").write_text(json.dumps({"quantization_config": config}))
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(plain, path / "model.safetensors")
    return checkpoints.open(path)


def compressed_tensors():
    if importlib.util.find_spec("compressed_tensors") is None:
        pytest.skip("compressed-tensors is not installed")
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    def compress(name, args, state):
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
        compressor = BaseCompressor.get_value_from_registry(name)
        packed = compressor.compress(state, scheme)
        return packed, compressor.decompress(packed, scheme)["weight"]

    return compress


def test_nvfp4_of_compressed_tensors_to_the_bit(generator, tmp_path):
    compress = compressed_tensors()
    weight = torch.randn(24, 64, generator=generator) * 0.02
    factor = 2688.0 / weight.abs().max().reshape(1)
    blocks = weight.unflatten(1, (-1, 16)).abs().amax(2)
    scale = (blocks / 6 * factor).to(torch.float8_e4m3fn).float()
    args = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
            "symmetric": True}  # fmt: skip
    state = {"weight": weight, "weight_scale": scale, "weight_global_scale": factor}
    packed, theirs = compress("nvfp4-pack-quantized", args, state)
    found = opened({f"fc.{k}": v for k, v in packed.items()}, tmp_path)
    assert found.packed == {Layout.NVFP4_PACK_QUANTIZED}
    ours = found.read("fc.weight")
    assert torch.equal(ours.values().to(theirs.dtype), theirs)
    # In float32 too, which their compressor does not give by itself.
    spread = (scale / factor).repeat_interleave(16, 1)
    assert torch.equal(ours.values(), e2m1_values(ours.codes) * spread)
    assert (ours.values() - weight).norm() / weight.norm() < 0.11
    assert ours.tensor_scale == 1 / factor


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("strategy", ["group", "channel", "tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_integers_of_compressed_tensors_to_the_bit(bits, strategy, symmetric, generator, tmp_path):
    compress = compressed_tensors()
    if strategy == "tensor" and not symmetric:
        return  # stores no packed zero points
    weight = torch.randn(12, 96, generator=generator)
    groups = {"group": 3, "channel": 1, "tensor": 1}[strategy]
    scale = torch.rand(12, groups, generator=generator) + 0.5
    zero = torch.randint(-2, 2, (12, groups), generator=generator).to(torch.int8)
    if strategy == "tensor":
        scale, zero = scale[:1, 0], zero[:1, 0]
    args = {"num_bits": bits, "type": "int", "strategy": strategy, "symmetric": symmetric}
    args |= {"group_size": 32} if strategy == "group" else {}
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    if symmetric:
        state["weight_zero_point"] = torch.zeros_like(zero)
    packed, theirs = compress("pack-quantized", args, state)
    found = opened({f"fc.{k}": v for k, v in packed.items()}, tmp_path)
    ours = found.read("fc.weight")
    assert torch.equal(ours.values().to(theirs.dtype), theirs)
    assert (ours.zero is None) is symmetric
    assert ours.format.bits == bits
    assert torch.equal(ours.rows(3, 7).values(), ours.values()[3:7])


def modelopt_nvfp4(weight):
    """Written element by element as ModelOpt exports it: codes, E4M3 scales, amax / 2688."""
    out, inputs = weight.shape
    factor = weight.abs().max() / 2688.0
    scale = torch.zeros(out, inputs // 16, dtype=torch.float8_e4m3fn)
    packed = torch.zeros(out, inputs // 2, dtype=torch.uint8)
    values = torch.zeros(out, inputs)
    for o in range(out):
        for i in range(inputs):
            block = weight[o, i // 16 * 16 : i // 16 * 16 + 16]
            stored = (block.abs().max() / (6.0 * factor)).clamp(2**-9, 448)
            scale[o, i // 16] = stored.to(torch.float8_e4m3fn)
            step = scale[o, i // 16].float() * factor
            wanted = float(weight[o, i] / step)
            code = min(range(16), key=lambda c: (abs(LEVELS[c] - wanted), c % 2))
            packed[o, i // 2] |= code << (4 * (i % 2))
            values[o, i] = LEVELS[code] * step
    return packed, scale, factor, values


def test_nvfp4_of_modelopt(generator, tmp_path):
    weight = torch.randn(5, 32, generator=generator) * 0.1
    packed, scale, factor, values = modelopt_nvfp4(weight)
    tensors = {
        "fc.weight": packed,
        "fc.weight_scale": scale,
        "fc.weight_scale_2": factor,
        "fc.input_scale": torch.tensor(0.1),
        "fc.bias": torch.ones(5),
    }
    (tmp_path / "hf_quant_config.json").write_text(
        '{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}'
    )
    found = opened(tensors, tmp_path)
    assert set(found.weights) == {"fc.weight", "fc.bias"}
    assert found.quantization == {"quant_algo": "NVFP4"}
    ours = found.read("fc.weight")
    assert (ours.layout, ours.format, ours.shape) == (Layout.MODELOPT_NVFP4, NVFP4, (5, 32))
    assert torch.equal(ours.values(), values)
    assert torch.equal(ours.tensor_scale, factor)


def words(codes, bits, order):
    """int32 words of the codes ``[..., n]``, field by field."""
    per = 32 // bits
    packed = torch.zeros(codes.shape[0], codes.shape[1] // per, dtype=torch.int64)
    for i in range(codes.shape[1]):
        field = order.index(i % per)
        packed[:, i // per] |= codes[:, i] << (bits * field)
    return (packed - (packed >> 31 << 32)).to(torch.int32)


def integers(generator, bits=4):
    codes = torch.randint(0, 2**bits, (64, 32), generator=generator)  # [in, out]
    zeros = torch.randint(0, 2**bits, (2, 32), generator=generator)
    scales = (torch.rand(2, 32, generator=generator) + 0.1).half()
    return codes, zeros, scales


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("permuted", [True, False])
def test_gptq(version, bits, permuted, generator, tmp_path):
    codes, zeros, scales = integers(generator, bits)
    index = torch.arange(64) // 32
    index = index[torch.randperm(64, generator=generator)] if permuted else index
    order = list(range(32 // bits))
    tensors = {
        "fc.qweight": words(codes.T, bits, order).T,
        "fc.qzeros": words((zeros - int(version == "gptq")) % 2**bits, bits, order),
        "fc.scales": scales,
        "fc.g_idx": index.int(),
    }
    config = {"quant_method": "gptq", "bits": bits, "checkpoint_format": version}
    ours = opened(tensors, tmp_path, config).read("fc.weight")
    expected = (codes - zeros[index]).float() * scales.float()[index]
    assert torch.equal(ours.values(), expected.T)


@pytest.mark.parametrize("config", [{"quant_method": "awq"}, None])
def test_awq(config, generator, tmp_path):
    codes, zeros, scales = integers(generator)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # output of each field, lowest bits first
    tensors = {
        "fc.qweight": words(codes, 4, order),
        "fc.qzeros": words(zeros, 4, order),
        "fc.scales": scales,
    }
    found = opened(tensors, tmp_path, config)
    assert found.packed == {Layout.AWQ}
    spread = torch.arange(64) // 32
    expected = (codes - zeros[spread]).float() * scales.float()[spread]
    assert torch.equal(found.read("fc.weight").values(), expected.T)


NVFP4_PARTS = {
    "fc.weight": torch.zeros(4, 16, dtype=torch.uint8),
    "fc.weight_scale": torch.ones(4, 2).to(torch.float8_e4m3fn),
    "fc.weight_scale_2": torch.ones(()),
}
INT_PARTS = {
    "fc.weight_packed": torch.zeros(4, 4, dtype=torch.int32),
    "fc.weight_scale": torch.ones(4, 1),
    "fc.weight_shape": torch.tensor([4, 32]),
}
GPTQ_PARTS = {
    "fc.qweight": torch.zeros(4, 8, dtype=torch.int32),
    "fc.qzeros": torch.zeros(1, 1, dtype=torch.int32),
    "fc.scales": torch.ones(1, 8),
    "fc.g_idx": torch.zeros(32, dtype=torch.int32),
}


@pytest.mark.parametrize(
    ("parts", "change", "says"),
    [
        (NVFP4_PARTS, {"fc.weight_scale": torch.ones(4, 2)}, "scales of torch.float32"),
        (NVFP4_PARTS, {"fc.weight_scale": torch.ones(4, 3)}, r"\[4, 3\] where \[4, 2\]"),
        (NVFP4_PARTS, {"fc.weight": torch.zeros(4, 15, dtype=torch.uint8)}, "no multiple of 16"),
        (NVFP4_PARTS, {"fc.weight": torch.zeros(64, dtype=torch.uint8)}, "with 2 axes"),
        (NVFP4_PARTS, {"fc.weight_scale_2": torch.ones(2)}, "one float32"),
        (NVFP4_PARTS, {"fc.weight_scale": None}, "has no 'fc.weight_scale'; the checkpoint"),
        (INT_PARTS, {"fc.weight_shape": torch.tensor([4, 33])}, "33 inputs in 4 words"),
        (INT_PARTS, {"fc.weight_shape": torch.tensor([-4, 32])}, "sizes are positive"),
        (INT_PARTS, {"fc.weight_shape": torch.ones(3)}, "two integers"),
        (INT_PARTS, {"fc.weight_shape": torch.tensor([5, 32])}, "belong to its codes"),
        (INT_PARTS, {"fc.weight_scale": torch.ones(3, 1)}, "one float for each output"),
        (INT_PARTS, {"fc.weight_scale": torch.ones(4, 5)}, "one float for each output"),
        (INT_PARTS, {"fc.weight_scale": None}, "has no 'fc.weight_scale'"),
        (INT_PARTS, {"fc.weight_packed": torch.zeros(4, 4, dtype=torch.int16)}, "int16; packed"),
        (GPTQ_PARTS, {"fc.g_idx": torch.full((32,), 9, dtype=torch.int32)}, "integers below 1"),
        (GPTQ_PARTS, {"fc.g_idx": torch.zeros(31, dtype=torch.int32)}, "32 integers|belong"),
        (GPTQ_PARTS, {"fc.g_idx": torch.ones(32)}, "32 integers below 1"),
        (GPTQ_PARTS, {"fc.qzeros": torch.zeros(1, 2, dtype=torch.int32)}, "belong to its codes"),
        (GPTQ_PARTS, {"fc.scales": None}, "has no scales"),
    ],
)
def test_parts_that_do_not_belong_together_are_named(parts, change, says, tmp_path):
    tensors = {k: v for k, v in (parts | change).items() if v is not None}
    with pytest.raises(InputError, match=says) as caught:
        opened(tensors, tmp_path).read("fc.weight")
    assert "fc." in str(caught.value)


def test_a_weight_that_is_stored_twice_is_refused(tmp_path):
    tensors = INT_PARTS | {"fc.weight": torch.ones(4, 32)}
    with pytest.raises(InputError, match="stored packed and once more"):
        assert opened(tensors, tmp_path).weights


def test_an_index_of_neighbours_is_no_index(generator, tmp_path):
    codes = torch.randint(-(2**31), 2**31 - 1, (8, 16), generator=generator).to(torch.int32)
    parts = {
        "fc.qweight": codes, "fc.qzeros": torch.zeros(2, 2, dtype=torch.int32),
        "fc.scales": torch.rand(2, 16, generator=generator),
        "fc.g_idx": (torch.arange(64) // 32).to(torch.int32),
    }  # fmt: skip
    plain = opened(parts, tmp_path).read("fc.weight")
    assert plain.groups is None
    parts["fc.g_idx"] = parts["fc.g_idx"].flip(0)
    turned = opened(parts, tmp_path).read("fc.weight")
    assert turned.groups is not None
    assert not torch.equal(plain.values(), turned.values())
