"""A private copy of the subject's model, in high precision and evaluation mode, with its loss."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from qprobe.analyzers.base import Subject
from qprobe.errors import InputError
from qprobe.quant import override
from qprobe.quant.layers import QuantizedLayer

#: What is computed in float32 here.
_HALF = (torch.float16, torch.bfloat16)


class Replica(nn.Module):
    """The loss of a copy as a function of its parameters; the subject's model is left alone.

    Memory: one more set of parameters and buffers, and the batches.
    """

    def __init__(self, subject: Subject, batches: int) -> None:
        super().__init__()
        self._subject = subject
        self.model = _copy(subject.model)
        self.batches: list[Any] = list(islice(subject.batches(), batches))
        if not self.batches:
            raise InputError(
                f"{subject.name} has no batch, and curvature is that of a loss on data."
            )
        with self.undisturbed(), torch.no_grad():
            self.samples = [len(self.losses(index)) for index in range(len(self.batches))]
        if self.total < 2:
            raise InputError(
                f"{subject.name} has {self.total} sample in {len(self.batches)} batches; a "
                "standard error needs at least 2."
            )

    @property
    def widened(self) -> bool:
        """Whether the subject's model has parameters of half precision, which are float32 here."""
        return any(one.dtype in _HALF for one in self._subject.model.parameters())

    @property
    def total(self) -> int:
        """Samples in all batches."""
        return sum(self.samples)

    @property
    def names(self) -> list[str]:
        """Names of the parameters in the order in which they are laid end to end."""
        return [name for name, _ in self.model.named_parameters()]

    @property
    def values(self) -> list[nn.Parameter]:
        """The parameters, each once."""
        return list(self.model.parameters())

    def losses(self, index: int, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """Losses ``[samples]`` of a batch, with other values for some parameters if given."""
        if values is None:
            found: Tensor = self(index)
        else:
            moved = {f"model.{name}": value for name, value in values.items()}
            found = functional_call(self, moved, (index,))
        if found.dim() != 1 or not bool(found.isfinite().all()):
            raise InputError(
                f"the loss of {self._subject.name} has shape {list(found.shape)} on batch {index} "
                "or is not finite; give finite losses of shape [samples]."
            )
        return found

    def forward(self, index: int) -> Tensor:
        """Losses of a batch."""
        batch = self.batches[index]
        losses: Tensor = self._subject.loss(self._subject.forward(self.model, batch), batch)
        return losses

    def groups(self, index: int) -> Sequence[str] | None:
        """Who the samples of a batch belong to, where the subject says it."""
        return self._subject.groups(self.batches[index]) if self._subject.groups else None

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A region that uses attention with a second derivative and gives random states back."""
        with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            try:
                yield
            except NotImplementedError as error:
                raise _no_derivative(error) from error
            except RuntimeError as error:
                if self.widened and "dtype" in str(error):
                    raise InputError(
                        f"{self._subject.name} is in half precision and cannot be computed in "
                        f"float32: {str(error).splitlines()[0].rstrip('.')}; give a float32 model "
                        "and batches."
                    ) from error
                if "derivative" not in str(error) and "double backward" not in str(error):
                    raise
                raise _no_derivative(error) from error


def _widen(model: nn.Module) -> None:
    """Parameters and buffers of half precision in float32, and what the model is called with.

    Second derivatives lose their small eigenvalues in half precision; the values of the weights
    stay what they are, since every half is a float32.
    """
    half = [one for one in (*model.parameters(), *model.buffers()) if one.dtype in _HALF]
    if not half:
        return
    for one in half:
        one.data = one.data.float()
    model.register_forward_pre_hook(_widened, with_kwargs=True)


def _widened(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with what is in half precision in float32."""

    def wide(one: Any) -> Any:
        return one.float() if isinstance(one, Tensor) and one.dtype in _HALF else one

    return tree_map(wide, args), tree_map(wide, kwargs)


def _no_derivative(error: Exception) -> InputError:
    said = str(error).splitlines()[0].rstrip(".")
    return InputError(f"the loss has no second derivative: {said}; leave curvature out.")


def _copy(model: nn.Module) -> nn.Module:
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    if not layers:
        raise InputError("no layer of the model is quantized; convert it first.")
    # Generators cannot be copied, and what is copied drops its setup anyway.
    shared = {id(setup): setup for m in model.modules() if (setup := getattr(m, "setup", None))}
    try:
        copy = deepcopy(model, dict(shared))
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"the model cannot be copied ({str(error).splitlines()[0].rstrip('.')}); detach "
            "tensors that it keeps from earlier passes."
        ) from error
    override(copy, {"*": "bf16"})
    copy.eval()
    _widen(copy)
    for parameter in copy.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    return copy
