"""Tells a session when any optimizer of PyTorch is about to step."""

import weakref
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


class Told(Protocol):
    """Who is told."""

    def before_update(self, optimizer: torch.optim.Optimizer, given: tuple[Any, ...]) -> None:
        """``optimizer`` is about to step, called with ``given``."""


def before_updates(told: Told) -> "RemovableHandle":
    """Tell it until the handle is removed, or as long as somebody holds it: this does not."""
    known = weakref.ref(told)

    def before(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (one := known()) is not None:
            one.before_update(optimizer, (*args[1:], *kwargs.values()))

    handle = register_optimizer_step_pre_hook(before)
    weakref.finalize(told, handle.remove)
    return handle
