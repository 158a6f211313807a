"""What quantizing the operands of the backward products costs a training step.

An evaluation says nothing about dgrad and wgrad. Here every layer's products are computed from the
same x, w and dy, the gradient of the loss in high precision, once exactly (g) and once with one
operand quantized (ĝ): ``1 − ⟨g, ĝ⟩/‖g‖²`` is the share of the first-order decrease of the loss that
is lost. Stochastic rounding is averaged over draws, because its mean is what a training sees.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qprobe.analyzers.dequantization.emit import interval, record
from qprobe.analyzers.dequantization.layers import Layer, Unquantized
from qprobe.analyzers.dequantization.measurement import Measurement
from qprobe.inference import Interval, Method, Resampling, bootstrap
from qprobe.quant import Gemm, QuantRecipe, QuantSpec, Rounding, Source
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.remembering import quantizers
from qprobe.records.schema import Record

Floats = NDArray[np.float64]
_OPERANDS = {"fprop": ("x", "w"), "dgrad": ("dy", "w"), "wgrad": ("dy", "x")}
#: Every operand that a layer or an attention quantizes.
_EVERY = frozenset(
    (gemm, one)
    for gemm, operands in {**_OPERANDS, "attention": ("q", "k", "p", "v")}.items()
    for one in operands
)


@dataclass(frozen=True, slots=True)
class Product:
    """One operand of a backward product, as a recipe quantizes it."""

    gemm: str
    operand: str
    stochastic: bool
    #: What the quantizer is asked for: fprop's operand, where that is used again.
    role: tuple[str, str]

    @property
    def name(self) -> str:
        """Such as ``wgrad dy``."""
        return f"{self.gemm} {self.operand}"


def products(recipe: QuantRecipe) -> list[Product]:
    """The operands of dgrad and wgrad that ``recipe`` quantizes."""
    found = []
    for gemm in ("dgrad", "wgrad"):
        plan: Gemm = getattr(recipe, gemm)
        for operand, how in zip(_OPERANDS[gemm], (plan.a, plan.b), strict=True):
            if isinstance(how, QuantSpec):
                stochastic = how.rounding is Rounding.STOCHASTIC
                found.append(Product(gemm, operand, stochastic, (gemm, operand)))
            elif how is Source.REUSE_FPROP:
                found.append(Product(gemm, operand, False, ("fprop", operand)))
    return found


def attribution(m: Measurement) -> Iterator[Record]:
    """The lost decrease of each operand of each layer, over batches."""
    layers = {
        path: layer
        for path, layer in m.layers.items()
        if isinstance(layer.module, QuantizedLayer) and products(layer.module.recipe)
    }
    # A part of the layers may be there; what is written at the end says that all are.
    done = m.known.value("passes.gradients") is not None
    if not layers or not m.search.gradients or done:
        return
    with m.clock.part("gradients"):
        sums = _over_batches(m, layers)
    for (path, name), parts in sums.items():
        if np.stack(parts)[:, 1].sum() == 0.0:
            yield record(path, "zero_gradient", 1.0, name)
            continue
        if len(parts) < 2:  # batches are what is drawn: of one there is a value and no interval
            yield record(path, "lost_decrease", float(1.0 - parts[0][0] / parts[0][1]), name)
            yield record(path, "lost_decrease.n", 1.0, name)
            continue
        yield from interval(path, "lost_decrease", _lost(np.stack(parts)), name)


def _lost(sums: Floats) -> Interval:
    """``1 − Σ⟨g, ĝ⟩/Σ‖g‖²`` over two batches or more, ``[batches, 2]``."""
    resampling = Resampling(generator=np.random.default_rng(0), method=Method.PERCENTILE)

    def reduce(totals: Floats) -> Any:
        none = totals[:, 1] == 0.0
        return np.ma.masked_array(1.0 - totals[:, 0] / np.where(none, 1.0, totals[:, 1]), mask=none)

    return bootstrap(sums, reduce, resampling)


def _over_batches(
    m: Measurement, layers: Mapping[str, Layer]
) -> dict[tuple[str, str], list[Floats]]:
    subject = m.subject
    found: dict[tuple[str, str], list[Floats]] = {}
    with _watched(m) as watchers:
        for batch in islice(subject.batches(), m.search.gradients):
            with torch.enable_grad():
                losses = subject.loss(subject.forward(subject.model, batch), batch)
                if losses.requires_grad:
                    losses.mean().backward()  # type: ignore[no-untyped-call]
            for path, watcher in watchers.items():
                for name, sums in watcher.collect(judge=path in layers).items():
                    found.setdefault((path, name), []).append(sums)
    return found


@contextmanager
def _watched(m: Measurement) -> Iterator[dict[str, "_Watcher"]]:
    """The model in high precision, whose weighted layers keep what their products are made of."""
    device = next(iter(m.subject.model.parameters())).device
    generator = torch.Generator(device).manual_seed(m.search.seed)
    trained = [p for p in m.subject.model.parameters() if p.requires_grad]
    watchers: dict[str, _Watcher] = {}
    with ExitStack() as stack:
        stack.enter_context(_without_gradients(trained))
        for path, layer in m.layers.items():
            high = Unquantized(layer.module.setup.quantizer, _EVERY)
            if isinstance(layer.module, QuantizedLayer):
                watchers[path] = _Watcher(layer.module, m.search.draws, generator)
                stack.enter_context(watchers[path].attached())
            stack.enter_context(quantizers({layer.module: high}))
        yield watchers


@contextmanager
def _without_gradients(trained: list[nn.Parameter]) -> Iterator[None]:
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class _Watcher:
    """Keeps x and dy of every call of a layer, and compares its gradients when asked."""

    def __init__(self, module: QuantizedLayer, draws: int, generator: torch.Generator) -> None:
        self._module = module
        self._setup = module.setup
        self._draws = draws
        self._generator = generator
        self._calls: list[tuple[Tensor, tuple[Any, ...], Tensor]] = []

    @contextmanager
    def attached(self) -> Iterator[None]:
        mine = vars(self._module)
        own = mine.get("forward")
        plain = own or partial(type(self._module).forward, self._module)
        try:
            mine["forward"] = partial(self._forward, plain)
            yield
        finally:
            if own is None:
                del mine["forward"]
            else:
                mine["forward"] = own

    def collect(self, *, judge: bool) -> dict[str, Floats]:
        """``[⟨g, ĝ⟩, ‖g‖²]`` by operand, summed over the batch's calls."""
        calls, self._calls = self._calls, []
        found: dict[str, Floats] = {}
        for call in calls if judge else ():
            exact = {gemm: self._gradient(call, gemm, None) for gemm in ("dgrad", "wgrad")}
            for product in products(self._setup.recipe):
                g = exact[product.gemm]
                draws = self._draws if product.stochastic else 1
                dots = [
                    float(torch.dot(g, self._gradient(call, product.gemm, product.role)))
                    for _ in range(draws)
                ]
                sums = np.array([np.mean(dots), float(torch.dot(g, g))])
                found[product.name] = found.get(product.name, np.zeros(2)) + sums
        return found

    def _forward(self, plain: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
        x = x if x.requires_grad else x.detach().requires_grad_()
        y = plain(x, *rest)

        def keep(dy: Tensor) -> None:
            self._calls.append((x.detach(), rest, dy.detach()))

        y.register_hook(keep)  # type: ignore[no-untyped-call]
        return y

    @torch.enable_grad()
    def _gradient(
        self, call: tuple[Tensor, tuple[Any, ...], Tensor], gemm: str, role: tuple[str, str] | None
    ) -> Tensor:
        """dx or dw with one operand quantized, or none; flat, float64."""
        (x, rest, dy), module = call, self._module
        weight: nn.Parameter = module.weight  # type: ignore[assignment]
        before, mine = module.setup, Unquantized(self._setup.quantizer, _EVERY - {role})
        module.setup = replace(self._setup, quantizer=mine, generator=self._generator)
        wanted = x.detach().requires_grad_() if gemm == "dgrad" else weight
        try:
            weight.requires_grad_(gemm == "wgrad")
            y = type(module).forward(module, wanted if gemm == "dgrad" else x, *rest)
            (found,) = torch.autograd.grad(y, wanted, dy)
        finally:
            weight.requires_grad_(False)
            module.setup = before
        return found.double().flatten()
