"""Layers in evaluation, where weights do not change and nobody asks for gradients."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from qprobe.quant import linear_native
from qprobe.quant.attention import attending_by_kernel
from qprobe.quant.products import Kernel, Quantizer, Role, Setup, faithful
from qprobe.quant.quantize import Operand


class Remembering:
    """Quantizes a layer's weight for fprop once: for one layer, whose weight does not change.

    Costs a copy of the weight, half a one where a kernel reads it, or both.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self._quantizer = quantizer
        self._weight: Tensor | None = None
        self._packed: linear_native.Packed | None = None
        self._asked = False

    def __call__(
        self, x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None
    ) -> Tensor:
        if (role.gemm, role.operand) != ("fprop", "w"):
            return self._quantizer(x, operand, role, generator)
        if self._weight is None:
            self._weight = self._quantizer(x, operand, role, generator)
        return self._weight

    def packed(self, w: Tensor, kernel: Kernel, setup: Setup) -> linear_native.Packed | None:
        """The weight as the kernel of linear layers reads it; None where it cannot."""
        if not self._asked:
            self._asked = True
            if self._quantizer is faithful:
                self._packed = linear_native.pack(w, kernel, setup)
        return self._packed


@contextmanager
def quantizers(chosen: Mapping[nn.Module, Quantizer]) -> Iterator[None]:
    """Other quantizers in these layers inside, their own after."""
    setups = {module: cast("Setup", module.setup) for module in chosen}
    try:
        for module, quantizer in chosen.items():
            module.setup = replace(setups[module], quantizer=quantizer)  # type: ignore[assignment]
        yield
    finally:
        for module, setup in setups.items():
            module.setup = setup  # type: ignore[assignment]


@contextmanager
def remembering(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Of these, those under a recipe quantize their weight once inside, and attention in high
    precision takes the kernel.

    Every evaluation goes this way, of a training as of an analysis, so that both report one score.
    """
    all_ = list(modules)
    found = {module: getattr(module, "setup", None) for module in all_}
    remembered: dict[nn.Module, Quantizer] = {
        module: Remembering(setup.quantizer)
        for module, setup in found.items()
        if isinstance(setup, Setup)
    }
    with quantizers(remembered), attending_by_kernel(all_):
        yield
