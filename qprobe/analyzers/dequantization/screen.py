"""What every layer's quantization does to the loss, to first order, from one backward pass.

With y_n a layer's output before its bias (inner products go over all but samples), g_n =
∂loss_n/∂y_n at the quantized model and op its product, putting an operand back changes y by::

    Δy_x = op(x − x_q, w_q)        Δy_w = op(x_q, w − w_q)

The product of both errors is of second order and left out. Per operand and for Δy = Δy_x + Δy_w::

    signed  s = mean_n ⟨g_n, Δy_n⟩       the change of the loss; cancels near a minimum
    fisher  f = mean_n ½⟨g_n, Δy_n⟩²     does not cancel; of second order in the error

Where the score tells its slope (:class:`~qprobe.analyzers.base.SlopedScore`), that takes the place
of the loss, with its sign turned: −s of all samples is then what the score itself gains, and orders
layers far better than ``|s| + f`` of a loss.

The layers' backward pass is the chain rule through the quantized product, dx = opᵀ(g, w_q), so
``⟨g, op(x − x_q, w_q)⟩ = ⟨dx, x − x_q⟩`` costs no product of its own; x_w costs one. Gradients of
weights are not computed.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.dequantization.layers import Layer
from qprobe.quant import REUSE_FPROP, Gemm, Operand, Quantizer, QuantRecipe, Role, ScaledDotProduct
from qprobe.quant.remembering import quantizers

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """Inner products ⟨g_n, Δy_n⟩ of every sample, by operand (x, w; a layer without: both)."""

    products: Mapping[str, Floats]

    @property
    def total(self) -> Floats:
        """Of all operands together."""
        return np.sum(list(self.products.values()), axis=0)  # type: ignore[no-any-return]

    @property
    def value(self) -> float:
        """``|s| + f``, by which layers are ordered."""
        return abs(signed(self.total)) + fisher(self.total)

    @property
    def gain(self) -> float:
        """``−s``: what a sample's share of the score gains, where the loss is a score's slope."""
        return -signed(self.total)

    @property
    def stderr(self) -> float:
        """The standard error of ``gain``; 0 of one sample, which does not tell it."""
        total = self.total
        return float(total.std(ddof=1)) / math.sqrt(len(total)) if len(total) > 1 else 0.0


def signed(products: Floats) -> float:
    """``mean ⟨g, Δy⟩``."""
    return float(products.mean())


def fisher(products: Floats) -> float:
    """``mean ½⟨g, Δy⟩²``.

    >>> fisher(np.array([2.0, -2.0])), signed(np.array([2.0, -2.0]))
    (2.0, 0.0)
    """
    return float(0.5 * np.square(products).mean())


def screen(
    subject: Subject, layers: Mapping[str, Layer], batches: Iterable[Any] | None = None
) -> dict[str, Screened]:
    """Screen ``layers`` on some batches, or all; the model is in evaluation mode.

    A layer to which no gradient came back has no entry.
    """
    sums: dict[str, dict[str, list[Floats]]] = {path: {} for path in layers}
    with _prepared(subject.model, layers) as watchers:
        for batch in subject.batches() if batches is None else batches:
            with torch.enable_grad():
                output = subject.forward(subject.model, batch)
                losses = subject.loss(output, batch)
                samples = len(losses)
                for watcher in watchers.values():
                    watcher.samples = samples
                if losses.requires_grad:
                    losses.sum().backward()  # type: ignore[no-untyped-call]
            for path, watcher in watchers.items():
                for operand, products in watcher.collect().items():
                    sums[path].setdefault(operand, []).append(products)
    return {
        path: Screened(products={name: np.concatenate(all_) for name, all_ in parts.items()})
        for path, parts in sums.items()
        if parts
    }


@contextmanager
def _prepared(model: nn.Module, layers: Mapping[str, Layer]) -> Iterator[dict[str, "_Watcher"]]:
    """Layers that report, with the chain rule as their backward pass; no weight has a gradient."""
    trained = [p for p in model.parameters() if p.requires_grad]
    watchers = {path: _Watcher(layer) for path, layer in layers.items()}
    with ExitStack() as stack:
        try:
            for parameter in trained:
                parameter.requires_grad_(False)
            for watcher in watchers.values():
                stack.enter_context(watcher.attached())
            yield watchers
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


def chain_rule(recipe: QuantRecipe) -> QuantRecipe:
    """``recipe`` forward, and backward the exact derivative of what it does forward."""
    reused = None if recipe.fprop.b is None else REUSE_FPROP
    return replace(recipe, dgrad=Gemm(b=reused), wgrad=Gemm())


@dataclass(slots=True, eq=False)
class _Operands:
    """What one call saw: ``x``, what fprop made of it, and of the weight."""

    x: Tensor
    x_q: Tensor | None = None
    w_q: Tensor | None = None


class _Noting:
    """A quantizer that notes what it returned for the forward product."""

    def __init__(self, quantizer: Quantizer) -> None:
        self._quantizer = quantizer
        self.noted: dict[str, Tensor] = {}

    def __call__(
        self, x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None
    ) -> Tensor:
        values = self._quantizer(x, operand, role, generator)
        if role.gemm == "fprop":
            self.noted[role.operand] = values
        return values


class _Given:
    """A quantizer that returns what it was given, whatever it is asked."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._values = values

    def __call__(
        self, x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None
    ) -> Tensor:
        return self._values[role.operand].reshape(x.shape)


@dataclass(slots=True, eq=False)
class _Watcher:
    """Wraps one layer's forward pass and adds up its inner products over the calls of a batch."""

    layer: Layer
    samples: int = 0
    _found: dict[str, Tensor] = field(default_factory=dict)

    @contextmanager
    def attached(self) -> Iterator[None]:
        module = self.layer.module
        setup, own = module.setup, vars(module).get("forward")
        forward: Callable[..., Tensor] = own or partial(_plain_call, module)
        watched = self._weighted if self.layer.weighted else self._attention
        try:
            vars(module)["forward"] = partial(watched, forward)
            module.setup = replace(setup, recipe=chain_rule(setup.recipe))
            yield
        finally:
            module.setup = setup
            if own is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = own

    def collect(self) -> dict[str, Floats]:
        """The batch's inner products by operand ``[samples]``; starts the next batch."""
        found = {name: sums.cpu().numpy() for name, sums in self._found.items()}
        self._found = {}
        return found

    def _weighted(self, forward: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
        # The first layer's input has no gradient; a view, so that other consumers add nothing here.
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        module = self.layer.module
        noting = _Noting(module.setup.quantizer)
        with quantizers({module: noting}):
            y = forward(x, *rest)
        given = noting.noted
        detached = x.detach()
        if "x" in given:
            gap = detached - given["x"].reshape(x.shape)
            x.register_hook(lambda dx: self._add("x", dx, gap))  # type: ignore[no-untyped-call]
        if "w" in given:
            weight = module.get_parameter("weight").detach()
            error = weight - given["w"].reshape(weight.shape)
            values = {"x": given.get("x", detached), "w": error}

            def add(g: Tensor) -> None:
                self._add("w", g, self._product(values, detached, rest))

            y.register_hook(add)  # type: ignore[no-untyped-call]
        return y

    def _attention(self, forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        args = tuple(
            one.detach().requires_grad_()
            if isinstance(one, Tensor) and one.is_floating_point() and not one.requires_grad
            else one
            for one in args
        )
        y = forward(*args, **kwargs)
        module = cast("ScaledDotProduct", self.layer.module)
        with torch.no_grad():
            gap = ScaledDotProduct.forward(module, *args, **kwargs) - y
        y.register_hook(lambda g: self._add("both", g, gap))  # type: ignore[no-untyped-call]
        return y

    @torch.no_grad()
    def _product(self, values: Mapping[str, Tensor], x: Tensor, rest: tuple[Any, ...]) -> Tensor:
        """The layer's product of other operands, without its bias."""
        module = self.layer.module
        parameters = module._parameters  # noqa: SLF001  (a bias is left out, not made zero)
        bias = parameters["bias"]
        parameters["bias"] = None
        try:
            with quantizers({module: _Given(values)}):
                return _plain_call(module, x, *rest)
        finally:
            parameters["bias"] = bias

    @torch.no_grad()
    def _add(self, operand: str, gradient: Tensor, change: Tensor) -> None:
        """One inner product a sample; samples lead, and may be folded with windows or tokens."""
        # PyTorch's sum is pairwise: float32 is enough, and float64 was half the time of a screen.
        both = gradient.to(torch.promote_types(gradient.dtype, torch.float32)) * change
        if both.shape[0] % self.samples == 0:
            found = both.reshape(self.samples, -1).sum(1).double()
        else:  # no axis of samples that could be told: everyone has an equal share
            found = (both.double().sum() / self.samples).expand(self.samples).clone()
        if operand in self._found:
            found = found + self._found[operand]
        self._found[operand] = found


def _plain_call(module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """The class's own forward pass, whatever the instance was given instead."""
    output: Tensor = type(module).forward(module, *args, **kwargs)
    return output
