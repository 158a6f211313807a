"""Hooks that belong to one model, and not to copies of it."""

from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any, Self

from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy

_AS_IT_IS = _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP)


class Hook(partial[Any]):
    """A hook on a module; where the module is copied or pickled, nothing stands in its place.

    It is traced as a part of a graph of the module. Where a model breaks its graphs itself the
    compiler would also make graphs of hooks alone, with tensors that are no part of them and whose
    gradients they do not know; there it runs as it is.

    >>> from copy import deepcopy
    >>> deepcopy(Hook(print))("said") is None
    True
    """

    def __new__(cls, function: Callable[..., Any], *args: Any) -> Self:
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            set_code_exec_strategy(code, _AS_IT_IS)
        return super().__new__(cls, function, *args)

    def __reduce__(self) -> Any:
        return _made_of_nothing, ()


def nothing(*_: object) -> None:
    """What a copied model calls."""


def _made_of_nothing() -> Any:
    return nothing
