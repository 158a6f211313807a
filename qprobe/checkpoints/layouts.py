"""Which stored tensors belong together: dense weights, and the parts of packed ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from qprobe.checkpoints.packed import Layout
from qprobe.checkpoints.source import Entry
from qprobe.errors import InputError
from qprobe.records.schema import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight of the model: its name there, its shape there, and the tensors that store it."""

    name: str
    #: ``None`` where only reading tells: a packed width can hold several.
    shape: tuple[int, ...] | None
    layout: Layout
    #: Names of the stored tensors by the last part of their name.
    parts: Mapping[str, str]


#: The part that holds the codes, what else belongs to it, and what tells the layout from others.
_PARTS: Mapping[Layout, tuple[str, Sequence[str], Sequence[str]]] = {
    Layout.NVFP4_PACK_QUANTIZED: (
        "weight_packed",
        ("weight_scale", "weight_global_scale"),
        ("input_global_scale",),
    ),
    Layout.MXFP4_PACK_QUANTIZED: ("weight_packed", ("weight_scale",), ("input_global_scale",)),
    Layout.MODELOPT_MXFP4: ("weight", ("weight_scale",), ("input_scale", "pre_quant_scale")),
    Layout.PACK_QUANTIZED: (
        "weight_packed",
        ("weight_scale", "weight_shape"),
        ("weight_zero_point", "weight_g_idx"),
    ),
    Layout.MODELOPT_NVFP4: (
        "weight",
        ("weight_scale", "weight_scale_2"),
        ("input_scale", "pre_quant_scale"),
    ),
    Layout.GPTQ: ("qweight", ("qzeros", "scales"), ("g_idx",)),
    Layout.AWQ: ("qweight", ("qzeros", "scales"), ()),
    Layout.SCALED: (
        "weight",
        (),
        ("weight_scale", "weight_scale_inv", "SCB", "weight_zero_point", "input_scale"),
    ),
}
#: How the codes of stacked experts end, and how their scales do.
_EXPERTS = (("_blocks", "_scales"), (".blocks", ".scales"))
_EXPONENTS = (torch.uint8, torch.float8_e8m0fnu)
_EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
_EIGHT_BIT_SCALES = {"weight_scale", "weight_scale_inv", "SCB"}


def find(entries: Mapping[str, Entry], config: Mapping[str, Json]) -> dict[str, Weight]:
    """Every weight by its name in the model; each stored tensor is in one weight at most.

    ``config`` is what the checkpoint says of its quantization, if anything.
    """
    found: dict[str, Weight] = {}
    taken: set[str] = set()
    for name in entries:
        experts = _experts(entries, name)
        if experts is not None:
            found[experts.name] = experts
            taken.update(experts.parts.values())
            continue
        prefix, _, last = name.rpartition(".")
        layout = _layout(entries, prefix, last, config)
        if layout is None:
            continue
        parts = _parts(entries, prefix, layout)
        taken.update(parts.values())
        packed = f"{prefix}.weight" if prefix else "weight"
        if packed in found or (packed in entries and last != "weight"):
            raise InputError(f"{packed!r} is stored packed and once more beside; keep one of them.")
        shape = entries[name].shape if layout is Layout.SCALED else None
        found[packed] = Weight(name=packed, shape=shape, layout=layout, parts=parts)
    for name, entry in entries.items():
        if name not in taken:
            last = name.rpartition(".")[2]
            found[name] = Weight(
                name=name, shape=entry.shape, layout=Layout.DENSE, parts={last: name}
            )
    return found


def _experts(entries: Mapping[str, Entry], name: str) -> Weight | None:
    """The weight of several experts whose MXFP4 codes are ``name``, if they are."""
    entry = entries[name]
    for codes, scales in _EXPERTS:
        stem = name.removesuffix(codes)
        if stem and stem != name and entry.dtype == torch.uint8 and len(entry.shape) == 4:
            if stem + scales not in entries:
                raise InputError(
                    f"{name!r} holds MXFP4 codes and has no {stem + scales!r}; the checkpoint is "
                    "incomplete."
                )
            if stem in entries:
                raise InputError(
                    f"{stem!r} is stored packed and once more beside; keep one of them."
                )
            return Weight(
                name=stem, shape=None, layout=Layout.MXFP4_EXPERTS,
                parts={"blocks": name, "scales": stem + scales},
            )  # fmt: skip
    return None


def _layout(
    entries: Mapping[str, Entry], prefix: str, last: str, config: Mapping[str, Json]
) -> Layout | None:
    """How the tensor ``prefix.last`` is packed, if it holds the codes of a weight."""
    beside = {p for p in _all_parts() if _join(prefix, p) in entries}
    entry = entries[_join(prefix, last)]
    if last == "weight" and entry.dtype == torch.uint8 and "weight_scale_2" in beside:
        return Layout.MODELOPT_NVFP4
    exponents = "weight_scale" in beside and (
        entries[_join(prefix, "weight_scale")].dtype in _EXPONENTS
    )
    if last == "weight" and entry.dtype == torch.uint8 and exponents:
        return Layout.MODELOPT_MXFP4
    if last == "weight" and entry.dtype in _EIGHT_BITS and beside & _EIGHT_BIT_SCALES:
        return Layout.SCALED
    if last == "weight_packed" and entry.dtype == torch.uint8 and exponents:
        return Layout.MXFP4_PACK_QUANTIZED
    if last == "weight_packed":
        by_type = {torch.uint8: Layout.NVFP4_PACK_QUANTIZED, torch.int32: Layout.PACK_QUANTIZED}
        if entry.dtype not in by_type:
            raise InputError(
                f"{_join(prefix, last)!r} is {entry.dtype}; packed weights are uint8 (NVFP4) or "
                "int32 (integers)."
            )
        return by_type[entry.dtype]
    if last == "qweight" and entry.dtype == torch.int32:
        return _gptq_or_awq(entries, prefix, config)
    return None


def _gptq_or_awq(entries: Mapping[str, Entry], prefix: str, config: Mapping[str, Json]) -> Layout:
    """GPTQ keeps the outputs whole, AWQ the inputs; where both are possible the config decides."""
    method = str(config.get("quant_method", "")).lower()
    if method in {"gptq", "awq"}:
        return Layout(method)
    scales = entries.get(_join(prefix, "scales"))
    words = entries[_join(prefix, "qweight")].shape
    if scales is None or len(scales.shape) != 2 or len(words) != 2:
        raise InputError(
            f"{_join(prefix, 'qweight')!r} {list(words)} has no scales [groups, out] beside it; "
            "the checkpoint is incomplete."
        )
    return Layout.GPTQ if scales.shape[1] == words[1] else Layout.AWQ


def _parts(entries: Mapping[str, Entry], prefix: str, layout: Layout) -> dict[str, str]:
    codes, needed, optional = _PARTS[layout]
    for part in needed:
        if _join(prefix, part) not in entries:
            raise InputError(
                f"{_join(prefix, codes)!r} is packed as {layout} and has no "
                f"{_join(prefix, part)!r}; the checkpoint is incomplete."
            )
    return {
        part: _join(prefix, part)
        for part in (codes, *needed, *optional)
        if _join(prefix, part) in entries
    }


def _all_parts() -> set[str]:
    return {part for codes, needed, more in _PARTS.values() for part in (codes, *needed, *more)}


def _join(prefix: str, last: str) -> str:
    return f"{prefix}.{last}" if prefix else last
