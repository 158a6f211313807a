"""The three products of a layer under a recipe: which operand is quantized along which axes.

A convolution is an implicit matrix product, so each operand is quantized along the axis its product
sums over: fprop's along input channels at each position (weights: at each tap), dgrad's along
output channels, wgrad's along the flattened batch-and-position axis. An operand is quantized where
it lies, once an element, before any unfolding; for 1×1 convolutions and linear layers that is the
matrix product to the letter. A transposed convolution is the mirror image. Channels of a group
share blocks only with their own group.

Quantized operands are multiplied in float32 and the product takes the activations' dtype, so what
the hardware does with bfloat16 (exact products, float32 sums, one rounding) is what happens here.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, ClassVar, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe.errors import InputError
from qprobe.quant.fold import memory_order
from qprobe.quant.formats import IntFormat
from qprobe.quant.quantize import Operand, quantize_operand
from qprobe.quant.recipe import Gemm, How, QuantRecipe, Source
from qprobe.quant.spec import Granularity, QuantSpec


@dataclass(frozen=True, slots=True)
class Role:
    """Which operand of which product: what a quantizer is told about the tensor it gets.

    ``gemm`` is fprop, dgrad or wgrad with operands x, w and dy, or attention with q, k, p and v.
    """

    gemm: str
    operand: str


class Quantizer(Protocol):
    """Turns a tensor into what a product sees of it; faults are planted by replacing it.

    Probes ask it too, beside the layer and with a generator of their own, so it gives the same for
    the same arguments and remembers nothing of the tensors it gets.
    """

    def __call__(
        self, x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None
    ) -> Tensor:
        """Values of ``x``, same shape, float32 or float64."""


def faithful(x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None) -> Tensor:
    """The quantizer that does what the recipe says."""
    del role
    return quantize_operand(x, operand, generator, _wide(x.dtype))


class Kernel(Protocol):
    """The three products of a layer, and which axes of which view each of them sums over."""

    #: The view of weights, activations and gradients that the axes refer to.
    weight_shape: tuple[int, ...]
    pointwise: bool
    depthwise: bool
    linear: bool

    def activations(self, x: Tensor) -> Tensor:
        """The view of x or dy that the axes refer to."""

    def axes(self, role: Role) -> tuple[int, ...]:
        """The axes that a product sums over, in that operand's view."""

    def channel_axes(self, operand: str) -> tuple[int, ...]:
        """The axes of an operand's view that make up its channels (w: its output channels)."""

    def fprop(self, x: Tensor, w: Tensor) -> Tensor:
        """``x·wᵀ``."""

    def dgrad(self, dy: Tensor, w: Tensor, x: Tensor) -> Tensor:
        """``dy·w``, in the shape of ``x``."""

    def wgrad(self, dy: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """``dyᵀ·x``, in the shape of ``w``."""


class LinearKernel:
    """Products of ``[tokens, in]`` with ``[out, in]``."""

    pointwise = False
    depthwise = False
    linear = True
    _AXES: ClassVar = {
        ("fprop", "x"): (1,),
        ("fprop", "w"): (1,),
        ("dgrad", "dy"): (1,),
        ("dgrad", "w"): (0,),
        ("wgrad", "dy"): (0,),
        ("wgrad", "x"): (0,),
    }

    def __init__(self, weight: Tensor) -> None:
        self.weight_shape = tuple(weight.shape)

    def activations(self, x: Tensor) -> Tensor:
        return _rows(x)

    def axes(self, role: Role) -> tuple[int, ...]:
        return self._AXES[role.gemm, role.operand]

    def channel_axes(self, operand: str) -> tuple[int, ...]:
        return (0,) if operand == "w" else (1,)

    def fprop(self, x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x, w)

    def dgrad(self, dy: Tensor, w: Tensor, x: Tensor) -> Tensor:
        return (dy @ w).reshape(x.shape)

    def wgrad(self, dy: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return _rows(dy).T @ _rows(x)


class ConvKernel:
    """Products of ``[batch, in, *space]`` with ``[out, in/groups, *taps]``, or the transposed pair.

    Views: activations ``[batch, groups, channels, *space]``, weights ``[groups, out, in, *taps]``
    (transposed: ``[groups, in, out, *taps]``, as the parameter has it).
    """

    linear = False

    def __init__(self, weight: Tensor, groups: int, arguments: tuple[Any, ...]) -> None:
        self._arguments = arguments
        self._transposed = bool(arguments[3])
        self._groups = groups
        self._space = weight.dim() - 2
        self.weight_shape = (groups, weight.shape[0] // groups, *weight.shape[1:])
        self.pointwise = all(taps == 1 for taps in weight.shape[2:])
        self.depthwise = groups > 1 and (self.weight_shape[1 if self._transposed else 2] == 1)

    def activations(self, x: Tensor) -> Tensor:
        channels = x.shape[1] // self._groups
        if memory_order(tuple(x.shape), x.stride()) is None:
            x = x.clone()  # keeps channels last where they are: other convolutions are much slower
        return x.view(x.shape[0], self._groups, channels, *x.shape[2:])

    def axes(self, role: Role) -> tuple[int, ...]:
        if role.gemm == "wgrad":
            return (0, *range(3, 3 + self._space))
        if role.operand != "w":
            return (2,)
        return (1,) if (role.gemm == "fprop") == self._transposed else (2,)

    def channel_axes(self, operand: str) -> tuple[int, ...]:
        if operand != "w":
            return (1, 2)
        return (0, 2) if self._transposed else (0, 1)

    def fprop(self, x: Tensor, w: Tensor) -> Tensor:
        return cast("Tensor", torch.ops.aten.convolution(x, w, None, *self._arguments))

    def dgrad(self, dy: Tensor, w: Tensor, x: Tensor) -> Tensor:
        return self._backward(dy, torch.empty_like(x, dtype=dy.dtype), w, [True, False, False])[0]

    def wgrad(self, dy: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return self._backward(dy, x, torch.empty_like(w, dtype=dy.dtype), [False, True, False])[1]

    def _backward(self, dy: Tensor, x: Tensor, w: Tensor, mask: list[bool]) -> Sequence[Tensor]:
        return cast(
            "Sequence[Tensor]",
            torch.ops.aten.convolution_backward(dy, x, w, None, *self._arguments, mask),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setup:
    """What a layer does to its operands, and with what."""

    recipe: QuantRecipe
    quantizer: Quantizer = faithful
    generator: torch.Generator | None = None


def first_setup(modules: Iterable[object]) -> Setup | None:
    """The setup of the first of some modules that has one; None where all are plain."""
    found = (getattr(module, "setup", None) for module in modules)
    return next((setup for setup in found if isinstance(setup, Setup)), None)


class _Products(torch.autograd.Function):
    """y = x·wᵀ forward; dx and dw backward; each operand as the recipe says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, kernel: Kernel, setup: Setup) -> Tensor:
        x_fprop, w_fprop = _fprop_operands(x, w, kernel, setup)
        ctx.kernel, ctx.setup = kernel, setup
        recipe = setup.recipe
        ctx.save_for_backward(
            x_fprop if recipe.wgrad.b is Source.REUSE_FPROP else x,
            w_fprop if recipe.dgrad.b is Source.REUSE_FPROP else w,
        )
        ctx.dtypes = x.dtype, w.dtype
        return kernel.fprop(*_common(x_fprop, w_fprop)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        if torch.is_grad_enabled():  # create_graph=True
            raise InputError(
                "a quantized layer has no second derivative; take Hessians of the model in high "
                "precision: convert(model, 'bf16')."
            )
        x, w = ctx.saved_tensors
        dx = dw = None
        # A backward pass started inside an autocast region would cast the products once more.
        with without_autocast(dy.device):
            if ctx.needs_input_grad[0]:
                dx = _dgrad(dy, w, x, ctx.kernel, ctx.setup).to(ctx.dtypes[0])
            if ctx.needs_input_grad[1]:
                dw = _wgrad(dy, x, w, ctx.kernel, ctx.setup).to(ctx.dtypes[1])
        return dx, dw, None, None


def _fprop_operands(x: Tensor, w: Tensor, kernel: Kernel, setup: Setup) -> tuple[Tensor, Tensor]:
    gemm = setup.recipe.fprop
    return (
        _take(x, gemm.a, Role("fprop", "x"), kernel, setup),
        _take(w, gemm.b, Role("fprop", "w"), kernel, setup),
    )


def _dgrad(dy: Tensor, w: Tensor, x: Tensor, kernel: Kernel, setup: Setup) -> Tensor:
    gemm = setup.recipe.dgrad
    a = _take(dy, gemm.a, Role("dgrad", "dy"), kernel, setup)
    b = _take(w, gemm.b, Role("dgrad", "w"), kernel, setup)
    return kernel.dgrad(*_common(a, b), x)


def _wgrad(dy: Tensor, x: Tensor, w: Tensor, kernel: Kernel, setup: Setup) -> Tensor:
    gemm = setup.recipe.wgrad
    a = _take(dy, gemm.a, Role("wgrad", "dy"), kernel, setup)
    b = _take(x, gemm.b, Role("wgrad", "x"), kernel, setup)
    return kernel.wgrad(*_common(a, b), w)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Products:
    """The three products of one call by themselves, bit for bit those of a layer under ``setup``.

    ``x`` and ``w`` are what the layer multiplied: cast as autocast casts them, padded where the
    layer pads by itself. Results have the dtypes that the layer's have.
    """

    x: Tensor
    w: Tensor
    kernel: Kernel
    setup: Setup

    def operands(self) -> tuple[Tensor, Tensor]:
        """``x`` and ``w`` as fprop multiplies them."""
        with without_autocast(self.x.device):
            return _common(*_fprop_operands(self.x, self.w, self.kernel, self.setup))

    def fprop(self) -> Tensor:
        """``y``, without the bias."""
        with without_autocast(self.x.device):
            return self.kernel.fprop(*self.operands()).to(self.x.dtype)

    def dgrad(self, dy: Tensor) -> Tensor:
        """``dx``, in the shape of ``x``."""
        w, how = self.w, self.setup.recipe.fprop.b
        with without_autocast(dy.device):
            if self.setup.recipe.dgrad.b is Source.REUSE_FPROP:
                w = _take(w, how, Role("fprop", "w"), self.kernel, self.setup)
            return _dgrad(dy, w, self.x, self.kernel, self.setup).to(self.x.dtype)

    def wgrad(self, dy: Tensor) -> Tensor:
        """``dw``, in the shape of ``w``."""
        x, how = self.x, self.setup.recipe.fprop.a
        with without_autocast(dy.device):
            if self.setup.recipe.wgrad.b is Source.REUSE_FPROP:
                x = _take(x, how, Role("fprop", "x"), self.kernel, self.setup)
            return _wgrad(dy, x, self.w, self.kernel, self.setup).to(self.w.dtype)


def weight_operand(w: Tensor, kernel: Kernel, setup: Setup) -> tuple[Tensor, Operand] | None:
    """The view of a weight that fprop quantizes and how; None where it stays as it is."""
    return operand_of(w, Role("fprop", "w"), kernel, setup.recipe)


def operand_of(
    x: Tensor, role: Role, kernel: Kernel, recipe: QuantRecipe
) -> tuple[Tensor, Operand] | None:
    """The view of an operand that its product quantizes and how, as a quantizer is told.

    None where the product takes it in high precision, or takes the values that fprop used.
    """
    how = recipe.how(role.gemm, role.operand)
    return _prepared(x, how, role, kernel, recipe) if isinstance(how, QuantSpec) else None


def _take(x: Tensor, how: How, role: Role, kernel: Kernel, setup: Setup) -> Tensor:
    """The operand as its product sees it, in its own shape."""
    if not isinstance(how, QuantSpec):
        return x
    view, operand = _prepared(x, how, role, kernel, setup.recipe)
    return setup.quantizer(view, operand, role, setup.generator).reshape(x.shape)


def _prepared(
    x: Tensor, spec: QuantSpec, role: Role, kernel: Kernel, recipe: QuantRecipe
) -> tuple[Tensor, Operand]:
    view = x.reshape(kernel.weight_shape) if role.operand == "w" else kernel.activations(x)
    return view, _operand(spec, role, kernel, getattr(recipe, role.gemm))


def _operand(spec: QuantSpec, role: Role, kernel: Kernel, gemm: Gemm) -> Operand:
    axes = kernel.axes(role)
    if not isinstance(spec.format, IntFormat):
        first = len(kernel.weight_shape) - 2 if kernel.linear else 1
        partner = {first: first + 1, first + 1: first}.get(axes[0]) if len(axes) == 1 else None
        return Operand(axes=axes, spec=spec, partner=partner, hadamard=gemm.hadamard)
    granularity = _granularity(spec.granularity, role.operand, kernel)
    if granularity is Granularity.CHANNEL:
        axes = kernel.channel_axes(role.operand)
    return Operand(axes=axes, spec=_resolved(spec, granularity))


@cache
def _resolved(spec: QuantSpec, granularity: Granularity) -> QuantSpec:
    """An integer's spec in a layer; making one is checked, and every call of a layer asks."""
    return QuantSpec(format=spec.format, rounding=spec.rounding, granularity=granularity)


def _granularity(granularity: Granularity, operand: str, kernel: Kernel) -> Granularity:
    """The granularity a recipe means in this layer."""
    if not granularity.depends_on_layer:
        return granularity
    if operand == "w":
        return Granularity.CHANNEL
    if kernel.linear:
        return Granularity.TOKEN
    pointwise = kernel.pointwise and not kernel.depthwise
    if granularity is Granularity.ADAPTIVE and pointwise:
        return Granularity.VOXEL
    return Granularity.CHANNEL


def _rows(x: Tensor) -> Tensor:
    """``x`` as a matrix; the sizes are spelled out because -1 is ambiguous without elements."""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])


def _common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A region in which nothing is cast, also on devices that know no autocast."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.compiler.disable(  # type: ignore[untyped-decorator, no-untyped-call]
    reason="qprobe's quantized layers run outside compiled graphs; compile without fullgraph=True."
)
def differentiable(x: Tensor, w: Tensor, kernel: Kernel, setup: Setup) -> Tensor:
    """``x·wᵀ`` with its gradients, outside compiled graphs, to which its kernels are opaque."""
    with without_autocast(x.device):
        return cast("Tensor", _Products.apply(x, w, kernel, setup))  # type: ignore[no-untyped-call]


def fprop_weight(w: Tensor, kernel: Kernel, setup: Setup) -> Tensor:
    """The weight as the forward product sees it, in its own shape."""
    with without_autocast(w.device):
        return _take(w.detach(), setup.recipe.fprop.b, Role("fprop", "w"), kernel, setup)
