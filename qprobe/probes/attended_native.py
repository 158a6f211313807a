"""One look at a sample of an attention through the C kernel: from the model's memory to statistics.

What :mod:`qprobe.probes.attended` computes step by step, for the case that is commonest by far: one
head in float32 or bfloat16 on a CPU, and a recipe that rounds to nearest and rotates nothing:
NVFP4, its weights in blocks or square tiles, or integers. Nothing in between is written to fresh
memory, and the sampled tokens are read where the model has them, which halves the time. A layer's
weight is quantized for the rows of the head alone; its scale is that of the whole.
"""

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from qprobe import native
from qprobe.native import AttentionLook, Element, How, Layer, Projecting, Sharing, Vectors
from qprobe.quant.formats import NVFP4, IntFormat
from qprobe.quant.products import Setup, faithful
from qprobe.quant.rounding import Rounding
from qprobe.quant.spec import Granularity, QuantSpec, Tile
from qprobe.sites.attention import Attended, Places, four
from qprobe.sites.projection import Projection, Rows
from qprobe.stats import Levels, LogitError, SoftmaxError
from qprobe.stats.attention import changed, mask_halves
from qprobe.stats.discretization import BINS

if TYPE_CHECKING:
    from qprobe.quant.recipe import Gemm

_TYPES = {torch.float32: Element.FLOAT32, torch.bfloat16: Element.BFLOAT16}
#: Integers of a linear layer have a scale a row but where the whole tensor shares one: weights a
#: channel, inputs a token.
_OF_A_ROW = frozenset(Granularity) - {Granularity.TENSOR}


class Plan(NamedTuple):
    """How operands are quantized: queries and keys, inputs and weights of layers."""

    attending: tuple[Sharing, int]
    input: tuple[Sharing, int]
    weight: tuple[Sharing, int]


class Seen(NamedTuple):
    """What quantization does to a sample of one head."""

    qk: LogitError
    moved: SoftmaxError
    levels: Levels
    #: None where the layers are not known.
    proj: LogitError | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """The calls that made queries and keys, and the rows of their weights that make the head."""

    q: Projection
    k: Projection
    rows_q: Rows
    rows_k: Rows
    anew: Projecting

    @property
    def readable(self) -> bool:
        """Whether the kernel can read what the layers multiplied."""
        return _multiplied(self.q) and (self.k is self.q or _multiplied(self.k))


def plan_of(products: "Gemm", setup: Setup) -> Plan | None:
    """How the kernel quantizes as a recipe says; None where it does not."""
    recipe = setup.recipe
    gemms = (products, recipe.fprop)
    if setup.quantizer is not faithful or recipe.attention is not None:
        return None
    if any(one.hadamard is not None for one in gemms):
        return None
    attending, keys, taken, weight = (_how(one) for gemm in gemms for one in (gemm.a, gemm.b))
    tiled = Sharing.TILES in {how[0] for how in (attending, taken) if how is not None}
    if attending is None or attending != keys or taken is None or weight is None or tiled:
        return None
    return Plan(attending, taken, weight)


def _how(spec: object) -> tuple[Sharing, int] | None:
    if not isinstance(spec, QuantSpec) or spec.rounding is not Rounding.NEAREST_EVEN:
        return None
    if isinstance(spec.format, IntFormat):
        sharing = Sharing.ROWS if spec.granularity in _OF_A_ROW else Sharing.WHOLE
        return sharing, spec.format.largest
    if spec.format != NVFP4:
        return None
    return (Sharing.TILES if spec.tile is Tile.TWO_D else Sharing.BLOCKS), 0


def usable(attended: Attended, places: Places) -> bool:
    """Whether the kernel is there and can read tensors like these."""
    return (
        native.kernels is not None
        and len(places.heads) == 1
        and attended.made is None
        and all(_readable(one) and one.stride(-1) == 1 for one in (attended.q, attended.k))
    )


def _multiplied(call: Projection) -> bool:
    x, w, bias = call.input, call.weight, call.bias
    return (
        call.dtype in _TYPES
        and all(_readable(one) for one in (x, w, *(() if bias is None else (bias,))))
        and (x.stride(1), x.stride(2)) == (x.shape[2], 1)
        and w.is_contiguous()
        and (bias is None or bias.is_contiguous())
    )


def _readable(x: Tensor) -> bool:
    """Tensors that dispatch for themselves (fake, functional) have no memory to point to."""
    return (
        x.dtype in _TYPES
        and x.device.type == "cpu"
        and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def see(attended: Attended, places: Places, plan: Plan, made: Made | None) -> Seen | None:
    """Look; None if something visible is not finite, of which PyTorch knows what it means."""
    q, k = four(attended.q), four(attended.k)
    (head,) = places.heads
    whole = plan.attending[0] is Sharing.WHOLE
    look = AttentionLook(
        q=_vectors(q, head, whole),
        k=_vectors(k, head // (q.shape[1] // k.shape[1]), whole),
        attending=How(*plan.attending),
        input=How(*plan.input),
        weight=How(*plan.weight),
        samples=len(places.samples),
        queries=len(places.queries),
        keys=k.shape[2],
        depth=q.shape[3],
        sample=ctypes.addressof(_numbers(places.samples)),
        query=ctypes.addressof(_numbers(places.queries)),
        scale=q.shape[-1] ** -0.5 if attended.scale is None else attended.scale,
    )
    if made is not None:
        look.of_q, look.of_k = _layer(made.q, made.rows_q), _layer(made.k, made.rows_k)
        look.projected = made.anew
    counts = torch.zeros(9, 1, dtype=torch.int64)
    sums = torch.zeros(3, 2, 2, 1, dtype=torch.float64)
    levels = torch.empty(2, BINS, 1, dtype=torch.int32)
    first, second = counts.data_ptr(), sums.data_ptr()
    look.counts[:] = [first + 8 * at for at in (0, 2, 7)]
    look.sums[:] = [second + 32 * at for at in range(3)]
    look.levels = levels.data_ptr()
    held = _mask(look, attended, places)
    scratch = torch.empty(native.require().attention_look_scratch(look))
    look.scratch = scratch.data_ptr()
    found = native.require().attention_look(look)
    del held
    return _seen(counts, sums, levels, look) if found else None


def _seen(counts: Tensor, sums: Tensor, levels: Tensor, look: AttentionLook) -> Seen:
    logits, softmax, projected = counts.split_with_sizes([2, 5, 2])
    entries = look.samples * look.queries * look.keys
    errors, change, anew = sums.unbind()
    moved, kept = changed(softmax, change, levels, entries)
    proj = _error(projected, anew) if look.projected else None
    return Seen(_error(logits, errors), moved, kept, proj)


def _error(counts: Tensor, sums: Tensor) -> LogitError:
    entries, rows = counts.unbind()
    signal, noise = sums.unbind()
    return LogitError(entries=entries, rows=rows, signal=signal, noise=noise)


@lru_cache(256)  # turns are as many as there are samples and queries
def _numbers(places: tuple[int, ...]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(places))(*places)


def _vectors(x: Tensor, head: int, whole: bool) -> Vectors:
    """Of one head of ``[samples, heads, tokens, depth]``."""
    sample, by_head, token, _ = x.stride()
    first = x.data_ptr() + head * by_head * x.element_size()
    top = float(torch.maximum(x.amax(), -x.amin())) if whole else 0.0
    return Vectors(first, _TYPES[x.dtype], sample, token, top)


def _layer(call: Projection, rows: Rows) -> Layer:
    x, w, bias = call.input, call.weight, call.bias
    return Layer(
        x.data_ptr(),
        w.data_ptr(),
        None if bias is None else bias.data_ptr(),
        *(_TYPES[call.dtype], _TYPES[x.dtype], _TYPES[w.dtype]),
        Element.FLOAT32 if bias is None else _TYPES[bias.dtype],
        *(x.stride(0), x.shape[1], *w.shape, rows.first, rows.step),
    )


def _mask(look: AttentionLook, attended: Attended, places: Places) -> list[Tensor]:
    """Point to what a mask hides and adds; gives the memory."""
    if attended.mask is None and not attended.causal:
        return []
    mask = attended.visible(places)
    if mask is None:
        return []
    visible, added = mask_halves(mask, mask)
    held = [one.contiguous() for one in (visible, added) if one is not None]
    look.visible = held[0].data_ptr()
    if added is not None:
        look.bias = held[1].data_ptr()
    return held
