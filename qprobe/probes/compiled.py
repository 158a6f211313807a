"""Refuses a model whose compiled code exists already: hooks that come later never run."""

from collections.abc import Iterator
from types import CodeType
from typing import Any

from torch import nn
from torch._dynamo import external_utils
from torch._dynamo.eval_frame import _debug_get_cache_entry_list

from qprobe.errors import InputError
from qprobe.sites.site import ROOT


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of compilation and data parallelism."""
    if isinstance(model, nn.DataParallel):
        raise InputError(
            "nn.DataParallel runs copies of the model that a session cannot see; use "
            "DistributedDataParallel, or attach before wrapping and train on one device."
        )
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def refuse_deaf(model: nn.Module) -> None:
    """Raise if code of ``model`` was compiled by a call before now.

    Compiled code is found by the Python code that it was made from. That of a class serves all its
    instances, and a wrapper is not known to what it wraps, so a class that ran compiled is refused
    wherever it is met.
    """
    for path, module in model.named_modules():
        if any(_debug_get_cache_entry_list(code) for code in _code(module)):
            raise InputError(
                f"{path or ROOT!r} ({type(unwrapped(module)).__name__}) was compiled by an earlier "
                "call, and hooks that are placed now would never run; attach before the first "
                "call, or call torch._dynamo.reset() before attaching."
            )


def _code(module: nn.Module) -> Iterator[CodeType]:
    """The code that compiling ``module`` replaces: its own, or PyTorch's around its own classes."""
    inner: Any = unwrapped(module)
    code = getattr(inner.forward, "__code__", None)
    if isinstance(code, CodeType):
        yield code
    if inner is not module:
        constants = external_utils.wrap_inline.__code__.co_consts
        yield from (one for one in constants if isinstance(one, CodeType))
