"""One look at a sample of an attention through the C kernel: from the model's memory to statistics.

What :mod:`qprobe.probes.attended` computes step by step, for the case that is commonest by far: one
head in float32 on a CPU, whose recipe takes every operand of the products in NVFP4 blocks along its
channels, rounded to nearest. Nothing in between is written to fresh memory, and the sampled tokens
are read where the model has them, which halves the time. A layer's weight is quantized for the rows
of the head alone; its scale is that of the whole.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from qprobe import native
from qprobe.native import AttentionLook, Layer, Vectors
from qprobe.quant.formats import NVFP4
from qprobe.quant.products import Setup, faithful
from qprobe.quant.spec import QuantSpec
from qprobe.sites.attention import Attended, Places, four
from qprobe.sites.projection import Projection, Rows
from qprobe.stats import Levels, LogitError, SoftmaxError
from qprobe.stats.attention import changed, mask_halves
from qprobe.stats.discretization import BINS

if TYPE_CHECKING:
    from qprobe.quant.recipe import Gemm

_PLAIN = QuantSpec(format=NVFP4)
#: A layer's call, and the rows of its weight that make the head.
Made = tuple[Projection, Rows]


class Seen(NamedTuple):
    """What quantization does to a sample of one head."""

    qk: LogitError
    moved: SoftmaxError
    levels: Levels
    #: None where the layers are not known.
    proj: LogitError | None


def usable(attended: Attended, places: Places, setup: Setup, products: "Gemm") -> bool:
    """Whether the kernel is there and does what the recipe says, with tensors like these."""
    recipe = setup.recipe
    gemms = (products, recipe.fprop)
    return (
        native.kernels is not None
        and setup.quantizer is faithful
        and recipe.attention is None
        and all(one.a == one.b == _PLAIN and one.hadamard is None for one in gemms)
        and len(places.heads) == 1
        and attended.made is None
        and all(_readable(one) and one.stride(-1) == 1 for one in (attended.q, attended.k))
    )


def readable(made: Made) -> bool:
    """Whether the kernel can read what a layer multiplied."""
    call = made[0]
    x, w, bias = call.input, call.weight, call.bias
    return (
        call.setup is None
        and all(_readable(one) for one in (x, w, *(() if bias is None else (bias,))))
        and (x.stride(1), x.stride(2)) == (x.shape[2], 1)
        and w.is_contiguous()
        and (bias is None or bias.is_contiguous())
    )


def _readable(x: Tensor) -> bool:
    """Tensors that dispatch for themselves (fake, functional) have no memory to point to."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def see(attended: Attended, places: Places, layers: tuple[Made, Made] | None) -> Seen | None:
    """Look; None if something visible is not finite, of which PyTorch knows what it means."""
    q, k = four(attended.q), four(attended.k)
    (head,) = places.heads
    numbers = [torch.tensor(one) for one in (places.samples, places.queries)]
    counts = torch.zeros(9, dtype=torch.int64)
    sums = torch.zeros(3, 2, 2, 1, dtype=torch.float64)
    levels = torch.empty(2, BINS, 1, dtype=torch.int32)
    look = AttentionLook(
        q=_vectors(q[:, head]),
        k=_vectors(k[:, head // (q.shape[1] // k.shape[1])]),
        samples=len(places.samples),
        queries=len(places.queries),
        keys=k.shape[2],
        depth=q.shape[3],
        sample=numbers[0].data_ptr(),
        query=numbers[1].data_ptr(),
        scale=q.shape[-1] ** -0.5 if attended.scale is None else attended.scale,
        levels=levels.data_ptr(),
        projected=layers is not None,
    )
    look.counts[:] = [counts[at:].data_ptr() for at in (0, 2, 7)]
    look.sums[:] = [one.data_ptr() for one in sums]
    if layers is not None:
        look.of_q, look.of_k = (_layer(*one) for one in layers)
    held = _mask(look, attended.visible(places))
    scratch = torch.empty(native.require().attention_look_scratch(look))
    look.scratch = scratch.data_ptr()
    found = native.require().attention_look(look)
    del held
    return _seen(counts, sums, levels, look) if found else None


def _seen(counts: Tensor, sums: Tensor, levels: Tensor, look: AttentionLook) -> Seen:
    logits, softmax, projected = counts.unsqueeze(1).split_with_sizes([2, 5, 2])
    entries = look.samples * look.queries * look.keys
    moved, kept = changed(softmax, sums[1], levels, entries)
    proj = _error(projected, sums[2]) if look.projected else None
    return Seen(_error(logits, sums[0]), moved, kept, proj)


def _error(counts: Tensor, sums: Tensor) -> LogitError:
    return LogitError(entries=counts[0], rows=counts[1], signal=sums[0], noise=sums[1])


def _vectors(x: Tensor) -> Vectors:
    """Of ``[samples, tokens, depth]``."""
    return Vectors(x.data_ptr(), x.stride(0), x.stride(1))


def _layer(call: Projection, rows: Rows) -> Layer:
    x, w, bias = call.input, call.weight, call.bias
    return Layer(
        x.data_ptr(),
        w.data_ptr(),
        None if bias is None else bias.data_ptr(),
        *(x.stride(0), x.shape[1], *w.shape, rows.first, rows.step),
    )


def _mask(look: AttentionLook, mask: Tensor | None) -> list[Tensor]:
    """Point to what a mask hides and adds; gives the memory."""
    if mask is None:
        return []
    visible, added = mask_halves(mask, mask)
    held = [one.contiguous() for one in (visible, added) if one is not None]
    look.visible = held[0].data_ptr()
    if added is not None:
        look.bias = held[1].data_ptr()
    return held
