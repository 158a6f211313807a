"""Linear layers that store their weight ``[in, out]``: the ``Conv1D`` of transformers, as in GPT-2.

Transformers is not imported for it: such a layer can only be where it was imported already.
"""

from typing import Any

from torch import Tensor, nn

from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.transposed_kernel import TransposedKernel

_NAME = "Conv1D"


class TransposedLinear(QuantizedLayer):
    """Such a layer under a recipe; the class that a layer becomes derives from its own, too."""

    weight: nn.Parameter
    bias: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """``x · weight + bias``."""
        return self._product(TransposedKernel(self.weight), x, self.weight, self.bias)

    def __repr__(self) -> str:
        return f"{super().__repr__().removesuffix(')')}, recipe={self.recipe.name})"


def stores_transposed(module: nn.Module) -> bool:
    """Whether the weight of ``module`` is ``[in, out]``, under a recipe or not."""
    return isinstance(module, TransposedLinear) or is_transposed(type(module))


def is_transposed(kind: type) -> bool:
    """Whether such layers are of this class."""
    return kind.__name__ == _NAME and kind.__module__.startswith("transformers.")


_CLASSES: dict[type[nn.Module], type[TransposedLinear]] = {}


def under_recipe(kind: type[nn.Module]) -> type[TransposedLinear]:
    """What layers of the class ``kind`` become; the same class for the same one."""
    if kind not in _CLASSES:
        _CLASSES[kind] = type(_NAME, (TransposedLinear, kind), {"__module__": __name__})
    return _CLASSES[kind]


def __getattr__(name: str) -> Any:
    """The class by its name, which is how a pickled layer asks for it."""
    if name != _NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from transformers.pytorch_utils import Conv1D

    return under_recipe(Conv1D)
