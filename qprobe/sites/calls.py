"""Which module calls which function, and for which time in this pass."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import torch
from torch import nn

from qprobe.sites.site import ROOT

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

#: The operation that stands for the call of a module itself.
FORWARD = "forward"
MULTIHEAD = "multi_head_attention_forward"
#: What may ask whether two of its arguments are the same tensor.
WHOLE = frozenset({FORWARD, MULTIHEAD})

_SAME = {
    "concat": "cat",
    "concatenate": "cat",
    "hstack": "cat",
    "vstack": "cat",
    "dstack": "cat",
    "stack": "cat",
    "multiply": "mul",
    "mm": "matmul",
    "bmm": "matmul",
    "baddbmm": "matmul",
    "einsum": "matmul",
    "scaled_dot_product_attention": "sdpa",
}
_DUNDER = {"iadd": "add", "radd": "add", "imul": "mul", "rmul": "mul", "rmatmul": "matmul"}


class Call(NamedTuple):
    """Call ``number`` (from 0) of ``operation`` directly inside the module ``path`` in one pass."""

    path: str
    operation: str
    number: int

    def __str__(self) -> str:
        return f"{self.path or ROOT}/{self.operation}.{self.number}"


def operation_of(function: Any) -> str:
    """One name for the spellings of one operation.

    >>> [operation_of(f) for f in (torch.add, torch.Tensor.add_, torch.Tensor.__iadd__)]
    ['add', 'add', 'add']
    >>> operation_of(torch.stack), operation_of(torch.Tensor.mT.__get__)
    ('cat', 'mT')
    """
    name: str = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":  # an attribute: the descriptor knows which
        name = getattr(function.__self__, "__name__", name)
    bare = name.strip("_")
    if name.startswith("__"):
        bare = _DUNDER.get(bare, bare)
    return _SAME.get(bare, bare)


def in_place(function: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call writes into its first argument: ``add_``, ``__iadd__``, ``inplace=True``."""
    name: str = getattr(function, "__name__", "")
    if kwargs.get("inplace"):
        return True
    if name.startswith("__"):
        return name.startswith("__i") and name.strip("_") in _DUNDER
    return name.endswith("_")


def in_backward() -> bool:
    """Whether autograd is running backward: what is called now recomputes an earlier call."""
    return bool(torch._C._current_graph_task_id() != -1)  # noqa: SLF001  (there is no public name)


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` was given to ``torch.compile``, or compiled itself."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None  # noqa: SLF001


class Watcher(Protocol):
    """Is told when modules are called."""

    def entered(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before the call; may replace its arguments."""

    def left(self, call: Call, output: object) -> None:
        """After the call."""


class Calls:
    """Follows a model through its modules; counts start again with every outermost call.

    A shared module has the first of its names. Recomputation under activation checkpointing is
    counted apart, so that it moves no number.
    """

    def __init__(self, model: nn.Module, watcher: Watcher) -> None:
        self._model = model
        self._watcher = watcher
        self._stack: list[Call] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._recounts: Counter[tuple[str, str]] = Counter()
        self._handles: list[RemovableHandle] = []
        self._thread = threading.get_ident()

    def __enter__(self) -> Self:
        self._watch(self._model.named_modules())
        return self

    def _watch(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        self._thread = threading.get_ident()
        for path, module in modules:
            enter, leave = partial(self._enter, path), partial(self._leave, path)
            self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(leave))

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._stack.clear()

    def begin(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Enter from within the outermost call, which has these arguments; they may be replaced.

        PyTorch walks through that module's hooks: they must not change now, nor at the end.
        """
        self._watch(one for one in self._model.named_modules() if one[0])
        return self._enter("", self._model, args, kwargs)

    @property
    def current(self) -> Call:
        """The innermost call of a module that is under way."""
        return self._stack[-1] if self._stack else Call("", FORWARD, 0)

    @property
    def totals(self) -> Mapping[str, int]:
        """How often each module was called since the last outermost call."""
        return {path: n for (path, what), n in self._counts.items() if what == FORWARD}

    def count(self, operation: str) -> Call:
        """Name the call of ``operation`` that is being made now, and count it."""
        return self._count(self.current.path, operation)

    def _count(self, path: str, operation: str) -> Call:
        counts = self._recounts if in_backward() else self._counts
        number = counts[path, operation]
        counts[path, operation] += 1
        return Call(path, operation, number)

    def _enter(
        self, path: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if threading.get_ident() != self._thread:  # another pass of the same model
            return None
        if not self._stack and not in_backward():
            self._counts.clear()
            self._recounts.clear()
        call = self._count(path, FORWARD)
        self._stack.append(call)
        return self._watcher.entered(call, args, kwargs)

    def _leave(self, path: str, _: nn.Module, __: object, output: object) -> None:
        if threading.get_ident() != self._thread:
            return
        # A call that ended with an exception, as checkpointing does on purpose, was never left.
        while self._stack:
            call = self._stack.pop()
            if call.path == path:
                self._watcher.left(call, output)
                return
