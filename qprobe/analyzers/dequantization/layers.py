"""The quantized layers of a model, and what can be changed about one of them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qprobe.quant import Operand, Quantizer, Restoring, Role
from qprobe.quant.attention import QuantizedScaledDotProduct
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.remembering import quantizers
from qprobe.sites.discover import kind_of

#: Operands of a forward product that can be put back one at a time.
OPERANDS = ("x", "w")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A quantized layer."""

    path: str
    module: QuantizedLayer | QuantizedScaledDotProduct
    #: Layers of one kind are dequantized together: ``linear``, ``conv2d 3x3``, ``attention``.
    kind: str

    @property
    def weighted(self) -> bool:
        """Whether it multiplies by a weight, so that it has the operands x and w."""
        return isinstance(self.module, QuantizedLayer)


def quantized_layers(model: nn.Module) -> dict[str, Layer]:
    """By path, in ``named_modules()`` order; a shared one under its first name."""
    return {
        path: Layer(path=path, module=module, kind=_kind(module))
        for path, module in model.named_modules()
        if isinstance(module, QuantizedLayer | QuantizedScaledDotProduct)
    }


def _kind(module: nn.Module) -> str:
    taps = getattr(module, "kernel_size", None)
    kind = kind_of(module) or type(module).__name__.lower()
    return kind if taps is None else f"{kind} {'x'.join(map(str, taps))}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """A change of the model: the modules that differ from the base, and how to make them so."""

    changed: tuple[str, ...]
    applied: Callable[[], AbstractContextManager[None]]


def dequantized(restoring: Restoring, layers: Collection[Layer]) -> Variant:
    """``layers`` in high precision."""
    paths = tuple(layer.path for layer in layers)
    return Variant(changed=paths, applied=restoring.of(paths))


def without_operand(layer: Layer, operand: str) -> Variant:
    """One operand of a layer's forward product in high precision, the other as it is."""
    quantizer = layer.module.setup.quantizer
    open_ = Unquantized(quantizer, frozenset({("fprop", operand)}))
    return Variant(changed=(layer.path,), applied=lambda: quantizers({layer.module: open_}))


def only(restoring: Restoring, layers: Mapping[str, Layer], path: str) -> Variant:
    """Of all ``layers`` this one quantized; what differs from the model in high precision."""
    others = tuple(other for other in layers if other != path)
    return Variant(changed=(path,), applied=restoring.of(others))


class Unquantized:
    """A quantizer that leaves some operands as they are, in the precision of the product."""

    def __init__(self, quantizer: Quantizer, roles: frozenset[tuple[str, str]]) -> None:
        self._quantizer = quantizer
        self._roles = roles

    def __call__(
        self, x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None
    ) -> Tensor:
        if (role.gemm, role.operand) in self._roles:
            return x if x.dtype == torch.float64 else x.float()
        return self._quantizer(x, operand, role, generator)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode inside, each module in its own mode after."""
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
