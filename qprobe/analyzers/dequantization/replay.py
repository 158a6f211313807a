"""Run a model again with some layers changed, without what came before them.

Modules that were called and done before the first changed one return what they returned before,
from the outermost that qualifies inwards: their input is the same, so the output is, to the bit.
Everything from the first changed layer on is computed. This holds for modules whose output follows
from their input and their own parameters. What breaks it is refused, not guessed: a pass that calls
other modules than the recorded one, and (by the caller's comparison with a plain run) state that
modules pass to each other behind their outputs.

Memory is bounded: outputs are kept in the order in which they are made, until the bound; what was
not kept is computed again. Above a sixteenth of the bound a block that is done gives up what is
inside it: memory that is new to the process comes page by page, which takes longer than to compute
a part of a block again.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from qprobe.errors import InputError
from qprobe.sites.calls import is_compiled

#: What an output may consist of: tensors, and what cannot change.
_PLAIN = (Tensor, int, float, str, type(None))
#: Recording a pass again finds tensors written in place by what was recorded cloned; no model needs
#: more rounds than it has nested in-place writes.
_ROUNDS = 4
#: Share of the memory above which blocks give up what is inside them, and the largest share of a
#: model's modules that make a block.
_PLENTY = 1 / 16
_BLOCK = 1 / 8
Compute = Callable[[], Any]


@dataclass(slots=True, eq=False)
class _Call:
    """One call of a module: from one tick of the pass's clock to another."""

    name: tuple[str, int]
    start: int
    end: int = -1
    children: "list[_Call]" = field(default_factory=list)
    kept: bool = False
    output: Any = None
    #: (tensor, version when it was made) of an output that is handed out as it is.
    versions: list[tuple[Tensor, int]] = field(default_factory=list)
    cloned: bool = False
    #: Bytes by address of what holds a kept output.
    storages: dict[int, int] = field(default_factory=dict)

    def inside(self) -> "Iterator[_Call]":
        """The calls in this one, parents before children."""
        waiting = [*self.children]
        while waiting:
            call = waiting.pop()
            yield call
            waiting += call.children

    def forget(self) -> None:
        self.kept, self.output, self.versions, self.storages = False, None, [], {}


@dataclass(slots=True, eq=False)
class Recording:
    """One pass of the base model over one batch."""

    output: Tensor
    root: _Call
    #: When each module was first called.
    first: dict[str, int]
    #: What share of a pass is computed again when a module changes: of the numbers that modules
    #: without others inside return, those that come after its first call.
    again: dict[str, float]
    #: What the kept outputs occupy.
    bytes: int

    def calls(self) -> Iterator[_Call]:
        """Every call, parents before children."""
        yield self.root
        yield from self.root.inside()

    def forget(self) -> None:
        """Free the outputs; what is left is the order of calls."""
        for call in self.calls():
            call.forget()
        self.bytes = 0


class _Shelf:
    """Outputs that are kept, and what they occupy."""

    def __init__(self, memory: int) -> None:
        self.bytes = 0
        self._memory = memory
        #: How many outputs a storage holds: a module may hand on what it was given.
        self._users: Counter[int] = Counter()

    def has_plenty(self) -> bool:
        """Whether so little is kept that inner outputs may stay."""
        return self.bytes <= self._memory * _PLENTY

    def has_room(self, storages: Mapping[int, int]) -> bool:
        """Whether what such storages hold may be kept."""
        return self.bytes + self._new(storages) <= self._memory

    def put(self, call: _Call) -> None:
        """Keep what ``call`` holds."""
        self.bytes += self._new(call.storages)
        self._users.update(call.storages.keys())

    def drop(self, call: _Call) -> None:
        """Forget what ``call`` holds."""
        self._users.subtract(call.storages.keys())
        self.bytes -= self._new(call.storages)
        call.forget()

    def _new(self, storages: Mapping[int, int]) -> int:
        """Bytes of those that no output holds."""
        return sum(n for at, n in storages.items() if not self._users[at])


class _Recorder:
    """Notes calls, and keeps outputs in a bounded memory."""

    def __init__(self, shelf: _Shelf, fragile: Collection[tuple[str, int]], modules: int) -> None:
        self.root = _Call(("", -1), 0)
        self.first: dict[str, int] = {}
        #: How many numbers had been returned before each module was first called.
        self._before: dict[str, int] = {}
        self._returned = 0
        self._shelf = shelf
        self._fragile = fragile
        #: Ticks of a call that is no more than a block: two a call.
        self._block = 2 * modules * _BLOCK
        self._stack = [self.root]
        self._tick = 0
        self._numbers: Counter[str] = Counter()

    def call(self, path: str, compute: Compute) -> Any:
        call = _Call((path, self._numbers[path]), self._next())
        self._numbers[path] += 1
        self.first.setdefault(path, call.start)
        self._before.setdefault(path, self._returned)
        self._stack[-1].children.append(call)
        self._stack.append(call)
        output = compute()
        self._stack.pop()
        call.end = self._next()
        if not call.children:
            self._returned += sum(t.numel() for t in tree_leaves(output) if isinstance(t, Tensor))
        if call.end - call.start <= self._block and not self._shelf.has_plenty():
            for inner in call.inside():
                self._shelf.drop(inner)
        self._keep(call, output)
        return output

    def close(self) -> None:
        self.root.end = self._next()

    def again(self) -> dict[str, float]:
        total = max(1, self._returned)
        return {path: 1 - before / total for path, before in self._before.items()}

    def _next(self) -> int:
        self._tick += 1
        return self._tick

    def _keep(self, call: _Call, output: Any) -> None:
        leaves = tree_leaves(output)
        if not all(isinstance(leaf, _PLAIN) for leaf in leaves):
            return  # who knows what it holds
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        call.cloned = call.name in self._fragile or any(t.is_inference() for t in tensors)
        storages = _storages(tensors)
        if call.cloned:  # a new storage each; the addresses are known once they are made
            storages = {-n: tensor.nbytes for n, tensor in enumerate(tensors, 1)}
        if not self._shelf.has_room(storages):
            return
        call.kept = True
        if call.cloned:
            call.output = _clone(output)
            leaves = tree_leaves(call.output)
            storages = _storages([leaf for leaf in leaves if isinstance(leaf, Tensor)])
        else:
            call.output = output
            call.versions = [(t, t._version) for t in tensors]  # noqa: SLF001  (no public name)
        call.storages = storages
        self._shelf.put(call)


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes by address of what holds them."""
    found = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in found}


class _Player:
    """Hands out what was recorded until the first changed module is called."""

    def __init__(self, recording: Recording, stop: int) -> None:
        self.given: list[_Call] = []
        self._stop = stop
        #: Calls that are computed and what they have yet to call; empty once a change was reached.
        self._stack = [(recording.root, iter(recording.root.children))]

    def call(self, path: str, compute: Compute) -> Any:
        if not self._stack:
            return compute()
        call = next(self._stack[-1][1], None)
        if call is None or call.name[0] != path:
            raise InputError(
                f"before any change the model called {path or 'itself'!r} where it had called "
                f"{call.name[0] if call else 'nothing more'!r} on the same batch, so outputs "
                "cannot be replayed; measure with replay=False."
            )
        if call.start >= self._stop:
            self._stack.clear()
            return compute()
        if call.end < self._stop and call.kept:
            self.given.append(call)
            return _clone(call.output) if call.cloned else call.output
        self._stack.append((call, iter(call.children)))
        output = compute()
        if self._stack and next(self._stack.pop()[1], None) is not None:
            raise InputError(
                f"before any change {path or 'the model'!r} called fewer modules than it had on "
                "the same batch, so outputs cannot be replayed; measure with replay=False."
            )
        return output


class Replay:
    """Records passes of a model and plays them again; inside the context only.

    While it is entered every module's ``forward`` is wrapped on the instance; nothing of that is
    left after.
    """

    def __init__(self, model: nn.Module, memory: int) -> None:
        self._model = model
        self._memory = memory
        self._modules = sum(1 for _ in model.modules())
        self._fragile: set[tuple[str, int]] = set()
        self._active: _Recorder | _Player | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Wrap the modules inside."""
        before: list[tuple[nn.Module, Any]] = []
        try:
            for path, module in self._model.named_modules():
                if is_compiled(module) or isinstance(module, torch.jit.ScriptModule):
                    raise InputError(
                        f"{path or 'the model'!r} is compiled, so what it calls cannot be "
                        "replayed; analyze the model before it is compiled."
                    )
                before.append((module, vars(module).get("forward")))
                # On the instance: the class changes with the recipe.
                vars(module)["forward"] = partial(self._forward, path, module, before[-1][1])
            yield
        finally:
            for module, own in before:
                if own is None:
                    del vars(module)["forward"]
                else:
                    vars(module)["forward"] = own

    def record(self, run: Callable[[], Tensor]) -> Recording:
        """Run the base model, and keep what its modules return.

        An output that something later wrote into is not what its module returned: such outputs are
        found by their version, and the pass is recorded again with copies of them.
        """
        for _ in range(_ROUNDS):
            shelf = _Shelf(self._memory)
            recorder = _Recorder(shelf, self._fragile, self._modules)
            output = self._run(recorder, run)
            recorder.close()
            again = recorder.again()
            recording = Recording(output, recorder.root, recorder.first, again, shelf.bytes)
            written = {call.name for call in recording.calls() if _written(call)}
            if not written:
                return recording
            self._fragile |= written
        raise InputError(
            f"{len(written)} modules, the first {min(written)[0]!r}, return tensors that are "
            "written into later and differ from pass to pass; measure with replay=False."
        )

    def replay(
        self, recording: Recording, changed: Collection[str], run: Callable[[], Tensor]
    ) -> Tensor:
        """The output with the modules at paths ``changed`` changed (by the caller, already)."""
        starts = [recording.first[path] for path in changed if path in recording.first]
        if not starts:
            return recording.output  # none of them is called
        player = _Player(recording, min(starts))
        output = self._run(player, run)
        for call in player.given:
            if _written(call):
                raise InputError(
                    f"with {', '.join(changed)} changed, something wrote into the output of "
                    f"{call.name[0]!r}, which it did not before; measure with replay=False."
                )
        return output

    def _run(self, active: _Recorder | _Player, run: Callable[[], Tensor]) -> Tensor:
        self._active = active
        try:
            return run()
        finally:
            self._active = None

    def _forward(self, path: str, module: nn.Module, own: Any, *args: Any, **kwargs: Any) -> Any:
        forward = own or partial(type(module).forward, module)
        if self._active is None:
            return forward(*args, **kwargs)
        return self._active.call(path, partial(forward, *args, **kwargs))


def _clone(output: Any) -> Any:
    return tree_map_only(Tensor, Tensor.clone, output)


def _written(call: _Call) -> bool:
    return any(tensor._version != version for tensor, version in call.versions)  # noqa: SLF001
