"""From the stored parts of a packed weight to its codes and scales, layout by layout."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qprobe.checkpoints.layouts import Weight
from qprobe.checkpoints.packed import Layout, PackedWeight, exponents, fields, nibbles
from qprobe.errors import InputError
from qprobe.quant.formats import MXFP4, NVFP4, IntFormat
from qprobe.records.schema import Json

Parts = Mapping[str, Tensor]
#: Place of each 4-bit field of an AWQ word among its eight outputs.
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
#: Widths whose codes do not straddle words, in which all writers agree.
_WIDTHS = (2, 4, 8)


def unpack(weight: Weight, parts: Parts, config: Mapping[str, Json]) -> PackedWeight:
    """The codes and scales of ``weight``, its shapes and types checked against each other."""
    return _UNPACK[weight.layout](weight, parts, config)


def _nvfp4(weight: Weight, parts: Parts, _: Mapping[str, Json]) -> PackedWeight:
    ours = weight.layout is Layout.MODELOPT_NVFP4
    packed = parts["weight" if ours else "weight_packed"]
    factor_name = "weight_scale_2" if ours else "weight_global_scale"
    stored, factor = parts["weight_scale"], parts[factor_name]
    _need(weight, packed, torch.uint8, 2)
    out, half = packed.shape
    if 2 * half % NVFP4.block:
        raise InputError(
            f"{weight.name!r} has {2 * half} inputs in its codes, no multiple of {NVFP4.block}."
        )
    _expect(weight, "weight_scale", stored, (out, 2 * half // NVFP4.block))
    if stored.dtype != torch.float8_e4m3fn or not factor.is_floating_point() or factor.numel() != 1:
        raise InputError(
            f"{weight.name!r} has scales of {stored.dtype} and a {factor_name} of {factor.dtype} "
            f"{list(factor.shape)}; NVFP4 has torch.float8_e4m3fn and one float32."
        )
    scale, factor = stored.float(), factor.float().reshape(())
    one = torch.ones((), device=factor.device)
    return PackedWeight(
        layout=weight.layout,
        format=NVFP4,
        codes=nibbles(packed),
        scale=scale,
        decode=scale * factor if ours else scale / factor,
        tensor_scale=factor if ours else one / factor,
        input_scale=_smoothing(weight, parts, 2 * half),
    )


def _mxfp4(weight: Weight, parts: Parts, _: Mapping[str, Json]) -> PackedWeight:
    ours = weight.layout is Layout.MODELOPT_MXFP4
    packed = parts["weight" if ours else "weight_packed"]
    _need(weight, packed, torch.uint8, 2)
    return _in_exponents(weight, parts, packed, parts["weight_scale"])


def _experts(weight: Weight, parts: Parts, _: Mapping[str, Json]) -> PackedWeight:
    """``[experts, out, blocks, 16]`` bytes under ``[experts, out, blocks]`` scales."""
    packed, scale = parts["blocks"], parts["scales"]
    _need(weight, packed, torch.uint8, 4)
    _expect(weight, "scales", scale, tuple(packed.shape[:3]))
    return _in_exponents(weight, parts, packed.flatten(0, 1).flatten(1), scale.flatten(0, 1))


def _in_exponents(weight: Weight, parts: Parts, packed: Tensor, stored: Tensor) -> PackedWeight:
    """Codes ``[out, in/2]`` under a power of two for each 32 of them."""
    inputs = 2 * packed.shape[1]
    if inputs % MXFP4.block:
        raise InputError(
            f"{weight.name!r} has {inputs} inputs in its codes, no multiple of {MXFP4.block}."
        )
    _expect(weight, "scales", stored, (packed.shape[0], inputs // MXFP4.block))
    if stored.dtype not in (torch.uint8, torch.float8_e8m0fnu):
        raise InputError(
            f"{weight.name!r} has scales of {stored.dtype}; MXFP4 has exponents in torch.uint8 or "
            "torch.float8_e8m0fnu."
        )
    scale = exponents(stored)
    return PackedWeight(
        layout=weight.layout,
        format=MXFP4,
        codes=nibbles(packed),
        scale=scale,
        decode=scale,
        input_scale=_smoothing(weight, parts, inputs),
    )


def _smoothing(weight: Weight, parts: Parts, inputs: int) -> Tensor | None:
    """What ModelOpt's AWQ multiplies each input with, of which the weight was divided by."""
    scale = parts.get("pre_quant_scale")
    if scale is None:
        return None
    if scale.numel() != inputs or not scale.is_floating_point():
        raise InputError(
            f"{weight.name!r} has a pre_quant_scale of {scale.dtype} {list(scale.shape)}; "
            f"{inputs} floats, one an input, were expected."
        )
    return scale.float().reshape(-1)


def _pack_quantized(weight: Weight, parts: Parts, _: Mapping[str, Json]) -> PackedWeight:
    packed, scale = parts["weight_packed"], parts["weight_scale"]
    _need(weight, packed, torch.int32, 2)
    shape = _stored_shape(weight, parts["weight_shape"])
    bits = _width(weight, packed.shape[1], shape[1])
    _expect(weight, "weight_packed", packed, (shape[0], -(-shape[1] * bits // 32)))
    scale = scale.reshape(1, 1) if scale.numel() == 1 else scale
    index = parts.get("weight_g_idx")
    _need_floats(weight, scale, shape, index is not None)
    zero = parts.get("weight_zero_point")
    if zero is not None:
        _need(weight, zero, torch.int32, 2)
        _expect(weight, "weight_zero_point", zero, (-(-shape[0] * bits // 32), scale.shape[1]))
        zero = fields(zero.T, bits)[:, : shape[0]].T - 2 ** (bits - 1)
    decode = scale.float().expand(shape[0], -1)
    return PackedWeight(
        layout=weight.layout,
        format=IntFormat(name=f"int{bits}", bits=bits),
        codes=fields(packed, bits)[:, : shape[1]] - 2 ** (bits - 1),
        scale=decode,
        decode=decode,
        zero=zero,
        groups=_group_index(weight, index, shape[1], scale.shape[1]),
    )


def _gptq(weight: Weight, parts: Parts, config: Mapping[str, Json]) -> PackedWeight:
    packed, zeros, scale = parts["qweight"], parts["qzeros"], parts["scales"]
    for part in (packed, zeros):
        _need(weight, part, torch.int32, 2)
    index = parts.get("g_idx")
    bits = _configured_width(weight, config, packed.shape[0], index)
    shape = (packed.shape[1], packed.shape[0] * 32 // bits)
    _expect(weight, "scales", scale, (scale.shape[0] if scale.dim() else 0, shape[0]))
    _expect(weight, "qzeros", zeros, (scale.shape[0], -(-shape[0] * bits // 32)))
    _need_floats(weight, scale.T, shape, index is not None)
    zero = fields(zeros, bits)[:, : shape[0]].T
    if config.get("checkpoint_format") != "gptq_v2":
        # The first version of the layout stores zero points less one, in as many bits.
        zero = (zero + 1) & (2**bits - 1)
    decode = scale.T.float()
    middle = 2 ** (bits - 1)
    return PackedWeight(
        layout=weight.layout,
        format=IntFormat(name=f"int{bits}", bits=bits),
        codes=fields(packed.T, bits) - middle,
        scale=decode,
        decode=decode,
        zero=zero - middle,
        groups=_group_index(weight, index, shape[1], scale.shape[0]),
    )


def _awq(weight: Weight, parts: Parts, _: Mapping[str, Json]) -> PackedWeight:
    packed, zeros, scale = parts["qweight"], parts["qzeros"], parts["scales"]
    for part in (packed, zeros):
        _need(weight, part, torch.int32, 2)
    shape = (packed.shape[1] * 8, packed.shape[0])
    _expect(weight, "scales", scale, (scale.shape[0] if scale.dim() else 0, shape[0]))
    _expect(weight, "qzeros", zeros, (scale.shape[0], packed.shape[1]))
    _need_floats(weight, scale.T, shape, False)
    decode = scale.T.float()
    return PackedWeight(
        layout=weight.layout,
        format=IntFormat(name="int4", bits=4),
        codes=_awq_fields(packed).T - 8,
        scale=decode,
        decode=decode,
        zero=_awq_fields(zeros).T - 8,
    )


def _awq_fields(words: Tensor) -> Tensor:
    rows = fields(words, 4).reshape(words.shape[0], -1, 8)
    return rows[:, :, list(_AWQ_ORDER)].flatten(1)


_UNPACK: Mapping[Layout, Callable[[Weight, Parts, Mapping[str, Json]], PackedWeight]] = {
    Layout.MODELOPT_NVFP4: _nvfp4,
    Layout.NVFP4_PACK_QUANTIZED: _nvfp4,
    Layout.MODELOPT_MXFP4: _mxfp4,
    Layout.MXFP4_PACK_QUANTIZED: _mxfp4,
    Layout.MXFP4_EXPERTS: _experts,
    Layout.PACK_QUANTIZED: _pack_quantized,
    Layout.GPTQ: _gptq,
    Layout.AWQ: _awq,
}


def _need(weight: Weight, part: Tensor, dtype: torch.dtype, axes: int) -> None:
    if part.dtype != dtype or part.dim() != axes or not part.numel():
        raise InputError(
            f"{weight.name!r} is packed as {weight.layout} in {part.dtype} {list(part.shape)}; "
            f"{dtype} with {axes} axes was expected."
        )


def _expect(weight: Weight, name: str, part: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(part.shape) != shape or not part.numel():
        raise InputError(
            f"{weight.name!r} has {name} {list(part.shape)} where {list(shape)} belong to its "
            "codes; the parts are of different weights."
        )


def _need_floats(weight: Weight, scale: Tensor, shape: tuple[int, int], indexed: bool) -> None:
    """Scales are ``[out or 1, groups]``; groups cut the inputs evenly unless an index says how."""
    fits = scale.dim() == 2 and scale.shape[0] in (1, shape[0]) and 0 < scale.shape[1] <= shape[1]
    if fits and scale.is_floating_point() and (indexed or shape[1] % scale.shape[1] == 0):
        return
    raise InputError(
        f"{weight.name!r} {list(shape)} has scales {list(scale.shape)} of {scale.dtype}; one float "
        "for each output and equal group of inputs was expected."
    )


def _stored_shape(weight: Weight, stored: Tensor) -> tuple[int, int]:
    if stored.numel() != 2 or stored.is_floating_point() or stored.is_complex():
        raise InputError(
            f"{weight.name!r} has a weight_shape of {stored.dtype} {list(stored.shape)}; two "
            "integers were expected."
        )
    out, inputs = (int(size) for size in stored.reshape(-1).tolist())
    if not (0 < out < 2**31 and 0 < inputs < 2**31):
        raise InputError(f"{weight.name!r} says its shape is {[out, inputs]}; sizes are positive.")
    return out, inputs


def _width(weight: Weight, words: int, inputs: int) -> int:
    """Bits of a code, from how many words hold how many inputs."""
    fitting = [bits for bits in _WIDTHS if -(-inputs * bits // 32) == words]
    if len(fitting) != 1:
        raise InputError(
            f"{weight.name!r} has {inputs} inputs in {words} words of 32 bits; codes of 2, 4 or 8 "
            "bits are read."
        )
    return fitting[0]


def _configured_width(
    weight: Weight, config: Mapping[str, Json], words: int, index: Tensor | None
) -> int:
    bits = config.get("bits", 4 if index is None else words * 32 // max(1, index.numel()))
    if bits not in _WIDTHS or isinstance(bits, bool) or not isinstance(bits, int):
        raise InputError(f"{weight.name!r} has codes of {bits!r} bits; 2, 4 and 8 are read.")
    return bits


def _group_index(weight: Weight, index: Tensor | None, inputs: int, groups: int) -> Tensor | None:
    if index is None:
        return None
    wide = index.reshape(-1).long() if not index.is_floating_point() else index.new_empty(0)
    if wide.numel() != inputs or int(wide.min()) < 0 or int(wide.max()) >= groups:
        raise InputError(
            f"{weight.name!r} has a group index of {index.dtype} {list(index.shape)}; {inputs} "
            f"integers below {groups} were expected."
        )
    if inputs % groups == 0 and torch.equal(wide, torch.arange(inputs) // (inputs // groups)):
        return None  # GPTQ writes the index also where neighbours share a group
    return wide
