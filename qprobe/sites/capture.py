"""The tensors at chosen sites of a model while it runs and trains as it would anyway."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.records.schema import Role
from qprobe.sites.apart import apart
from qprobe.sites.attending import Attending, Drawing, Drawn
from qprobe.sites.attention import Attended, Logits, Sampling
from qprobe.sites.calls import in_backward
from qprobe.sites.dataflow import first_tensor
from qprobe.sites.discover import Owner, by_path, owners
from qprobe.sites.hook import Hook
from qprobe.sites.intercept import Intercept
from qprobe.sites.passes import Passes, is_replica
from qprobe.sites.reshaped import private_base, reshapes
from qprobe.sites.site import Site, numbered
from qprobe.sites.trace import Trace
from qprobe.sites.traced import Traced, traced_call
from qprobe.sites.watch import Watch, local_part, weight_of

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


class Receiver(Protocol):
    """Takes what is seen. The tensor is detached and the model's own: read it now, keep none."""

    def __call__(self, site: Site, tensor: Tensor) -> None:
        """Look at ``tensor``."""


class Capture:
    """Hands the tensors at ``sites`` to ``receive``, from entering to leaving the context.

    Values come from forward hooks, gradients from tensor hooks that these place: outputs and
    gradients of the model are the same bits as without. Where a module is called several times in
    one pass :attr:`call` is the number of the call, and so is the ``index`` of a site, but that of
    an operand of attention. What activation checkpointing computes a second time is not seen twice.
    Branches and the attentions of modules that are no attention layers are reached through
    ``trace``; their gradients are those of private aliases at each call that takes the tensor.

    Weights and their gradients are handed over by :meth:`read_weights`, between backward and the
    optimizer's step. Logits and probabilities of attention are recomputed on a sample; raise
    :attr:`turn` from step to step, so that every head and query has its turn.

    :meth:`arm` narrows what is handed over, from the next pass on; with nothing armed the hooks
    return at once.

    Enter the context before the model is first compiled: hooks that come later are never called.
    ``receive`` is not traced; compiled code calls it while it runs, where sites have the index 0
    and :attr:`call` tells the calls of a module apart. Branches inside a compiled model are
    refused; a :class:`~qprobe.sites.Tap` works there.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    >>> def show(site, tensor):
    ...     print(site, list(tensor.shape))
    >>> sites = [Site("0", Role.OUTPUT, "linear"), Site("0", Role.GRAD_OUTPUT, "linear")]
    >>> with Capture(model, sites, show) as capture:
    ...     model(torch.ones(2, 4)).sum().backward()
    linear 0 output [2, 4]
    linear 0 grad_output [2, 4]
    >>> capture.missed
    ()
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Iterable[Site],
        receive: Receiver,
        *,
        trace: Trace | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.turn = 0
        self.sampling = sampling or Sampling()
        #: Number of the outermost call that the tensor being handed over belongs to.
        self.passing = 0
        #: Number of the call of its module, counted in that pass; in compiled code a number that
        #: the tensors of one call share.
        self.call = 0
        #: Whether that call, or one of a part by itself (generate() has some), records gradients.
        self.recording = True
        #: What logits and probabilities that are being handed over are made of, sampled alike;
        #: None where the model has made them itself.
        self.attended: Attended | None = None
        self._model = model
        self._receive = receive
        self._sites = tuple(dict.fromkeys(sites))
        self._armed: frozenset[Site] | None = None
        self._traced = Traced(self._sites, self)
        self._missing = set(self._sites)
        owned = by_path(owners(model))
        self._watches, foreign = self._split(trace, owned)
        self._attending = Attending(owned, self._sites, self)
        self._intercept = Intercept(model, foreign, trace, self) if trace and foreign else None
        self._foreign: frozenset[Site] = frozenset(foreign)
        self._intercepting = self._intercept is not None
        self._passes = Passes()
        self._inside = False
        self._counts: Counter[tuple[Watch, bool]] = Counter()
        self._graded: set[tuple[Watch, int]] = set()
        self._handles: list[RemovableHandle] = []
        self._gradients: list[RemovableHandle] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._remove)
            begin, end = Hook(self._begin), Hook(self._end)
            self._handles.append(self._model.register_forward_pre_hook(begin, with_kwargs=True))
            self._handles.append(self._model.register_forward_hook(end, always_call=True))
            self._handles += self._attending.hook(self._model)
            for watch in self._watches:
                hook = Hook(self._called, watch)
                module = watch.owner.module
                self._handles.append(module.register_forward_hook(hook, with_kwargs=True))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def missed(self) -> tuple[Site, ...]:
        """The sites asked for of which nothing has come so far."""
        return tuple(site for site in self._sites if site in self._missing)

    def arm(self, sites: Iterable[Site] | None) -> None:
        """Hand over what comes from ``sites`` alone, from the next pass on; None: from all."""
        self._end_interrupted()
        self._armed = armed = None if sites is None else frozenset(sites)
        for watch in self._watches:
            watch.arm(armed)
        self._attending.arm(armed)
        self._intercepting = bool(self._foreign if armed is None else self._foreign & armed)

    @property
    def parameters(self) -> set[int]:
        """The ``id`` of each weight that is armed, or whose gradient is."""
        return {
            id(weight_of(watch.owner))
            for watch in self._watches
            if watch.armed is not None and watch.armed.learned
        }

    def read_weights(self, parameters: Container[int] | None = None) -> None:
        """Hand over weights and their gradients: of a sharded model, this process's shard.

        Weights are ``[outputs, inputs]`` also where a layer stores them transposed. With
        ``parameters``, only those whose ``id`` is in it.
        """
        for watch in self._watches:
            if watch.armed is None or not watch.armed.learned:
                continue
            weight = weight_of(watch.owner)
            if parameters is not None and id(weight) not in parameters:
                continue
            for site in watch.armed.learned:
                tensor = weight if site.role is Role.WEIGHT else weight.grad
                if tensor is not None:
                    self.deliver(site, local_part(watch.owner.module, tensor))

    def deliver(self, site: Site, tensor: Tensor) -> None:
        """Hand ``tensor`` over, so that looking at it leaves nothing in the model's graph."""
        if torch.compiler.is_compiling():
            self._traced.deliver(site, tensor)
            return
        apart(lambda: self._receive(site, tensor.detach()))
        self._seen(site)

    def arrived(self, site: Site, tensor: Tensor, call: int, *, recording: bool) -> None:
        """Hand over what compiled code has made, unless it makes it a second time."""
        again = in_backward() and site.role is not Role.GRAD_OUTPUT
        if not again and self._listening(site):
            with self._running(call, recording=recording):
                self.deliver(site, tensor)

    def drew(self, sites: Iterable[Site], attended: Attended, *, recording: bool) -> None:
        """Hand over a sample of an attention in compiled code."""
        listening = [site for site in sites if self._listening(site)]
        if listening and not in_backward():
            with self._running(0, recording=recording):
                self.attend(listening, attended)

    def _listening(self, site: Site) -> bool:
        return bool(self._handles) and (self._armed is None or site in self._armed)

    @contextmanager
    def _running(self, call: int, *, recording: bool) -> Iterator[None]:
        """Compiled code runs, which knows no pass."""
        with self._passes.handing:
            before = self.passing, self.call, self.recording
            self.passing, self.call, self.recording = 0, call, recording
            try:
                yield
            finally:
                self.passing, self.call, self.recording = before

    def weight(self, site: Site) -> Tensor | None:
        """The weight of the module that has ``site``; None where it has none, or a shard of it."""
        for watch in self._watches:
            if watch.owner.path == site.path and Role.WEIGHT in watch.owner.roles:
                weight = weight_of(watch.owner)
                return (
                    None if hasattr(weight, "to_local") else local_part(watch.owner.module, weight)
                )
        return None

    def _seen(self, site: Site) -> None:
        if self._missing:
            self._missing.discard(site)
            self._missing.discard(replace(site, index=0) if site.index else site)

    def attend(self, sites: Iterable[Site], attended: Logits) -> None:
        """Hand over logits and probabilities of a sample, as far as ``sites`` ask for them."""
        if isinstance(attended, Attended) and torch.compiler.is_compiling():
            self._traced.attend(sites, attended)
            return
        made_of = self._attending.known(attended)
        self.draw(sites, Drawn(made_of=made_of, sampling=self.sampling, turn=self.turn))

    def draw(self, sites: Iterable[Site], drawn: Drawn) -> None:
        """Hand over a sample of an attention; a receiver with a method ``drawn`` gets it as such.

        It then computes no logits that nobody looks at.
        """
        look: Drawing | None = getattr(self._receive, "drawn", None)
        self.attended = drawn.attended
        try:
            for site in sites:
                if look is None:
                    self.deliver(site, drawn.tensor(site.role))
                else:
                    apart(partial(look, site, drawn))
                    self._seen(site)
        finally:
            self.attended = None

    def on_gradient(self, tensor: Tensor, hook: Any) -> None:
        """Call ``hook`` with the gradient of ``tensor``, as long as this context lasts."""
        self._gradients.append(tensor.register_hook(hook))  # type: ignore[no-untyped-call]

    def _split(
        self, trace: Trace | None, owned: Mapping[str, Owner]
    ) -> tuple[list[Watch], list[Site]]:
        """What modules own, and what is computed inside them."""
        traced = set(trace.sites) if trace else set()
        plan: dict[str, tuple[Owner, list[Site]]] = {}
        foreign: list[Site] = []
        for site in self._sites:
            owner = owned.get(site.path)
            if owner is not None and site.kind == owner.kind and site.role in owner.roles:
                plan.setdefault(site.path, (owner, []))[1].append(site)
            elif site in traced:
                foreign.append(site)
            else:
                hint = "" if trace else " or pass the trace that found it"
                raise InputError(
                    f"the model has no site {str(site)!r}; take one that discover() lists{hint}."
                )
        return [Watch(*one) for one in plan.values()], foreign

    def _begin(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A pass begins; calls inside the model are watched during it, if any is armed."""
        if torch.compiler.is_compiling() or in_backward():
            return None
        recording = torch.is_grad_enabled()
        if not self._passes.enter(recording=recording, replica=is_replica(model)):
            return None
        self.passing += 1
        self.recording = recording
        self._counts.clear()
        self._graded.clear()
        # Handles of graphs that are gone.
        self._gradients = [one for one in self._gradients if one.hooks_dict_ref() is not None]
        if not self._intercepting or self._intercept is None:
            return None
        self._inside = True
        return self._intercept.begin(args, kwargs)

    def _end(self, *_: object) -> None:
        if torch.compiler.is_compiling() or in_backward():
            return
        if self._passes.outermost:
            self._end_intercepted()
        self._passes.leave()

    def _end_interrupted(self) -> None:
        """Forget a pass that was left without its end, as by a keyboard interrupt."""
        if self._passes.begun:
            self._end_intercepted()
        self._passes.settle()

    def _end_intercepted(self) -> None:
        if self._inside and self._intercept is not None:
            self._inside = False
            self._intercept.end()

    def _remove(self) -> None:
        for handle in (*self._handles, *self._gradients):
            handle.remove()
        self._handles.clear()
        self._gradients.clear()
        self._end_interrupted()
        if self._intercept is not None:
            self._intercept.silence()

    def _called(
        self,
        watch: Watch,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: object,
    ) -> None:
        if torch.compiler.is_compiling():
            self._traced_call(watch, module, (args, kwargs), output)
            return
        wanted = watch.armed
        if wanted is None or not wanted.passing:
            return
        again = in_backward()
        if not (again or self._passes.here):
            return
        self.recording = self.recording if again or self._passes.begun else torch.is_grad_enabled()
        made = first_tensor(output)
        index = self._number(watch, made, again=again)
        if not again:
            self.call = index
            for site, tensor in wanted.tensors((args, kwargs), made):
                self.deliver(numbered(site, index), tensor)
            if watch.attends:
                self._attending.called(module, wanted, index, (args, kwargs))
            self.call = 0
        if wanted.gradient is not None:
            self._gradient(watch, wanted.gradient, index, made)

    def _traced_call(
        self, watch: Watch, module: nn.Module, given: tuple[Any, Any], output: object
    ) -> None:
        """The same where the call is traced: of everything, numbered once and for all."""
        wanted, made = watch.everything, first_tensor(output)
        if not wanted.passing or torch.compiler.is_exporting():
            return
        call = traced_call() if watch.several else 0
        for site, tensor in wanted.tensors(given, made):
            self._traced.deliver(site, tensor, call)
        if watch.attends:
            self._attending.called(module, wanted, 0, given)
        if wanted.gradient is not None and made is not None and made.requires_grad:
            self._traced.on_gradient(wanted.gradient, made, call, reshaped=reshapes(module))

    def _number(self, watch: Watch, made: Tensor | None, *, again: bool) -> int:
        """Which call of the pass this is; recomputed calls are counted apart.

        Of these only such as record gradients: where one checkpoint is inside another, the inner
        part is also computed again without.
        """
        if again and (made is None or not made.requires_grad):
            return 0
        self._counts[watch, again] += 1
        return self._counts[watch, again] - 1

    def _gradient(self, watch: Watch, wanted: Site, index: int, tensor: Tensor | None) -> None:
        """Have the gradient of the output handed over, when it will be known.

        Under reentrant checkpointing only the recomputed call has one, else only the first.
        """
        if tensor is None or not tensor.requires_grad or (watch, index) in self._graded:
            return
        self._graded.add((watch, index))
        site, base = numbered(wanted, index), private_base(tensor, watch.owner.module)
        if base is None:
            self.on_gradient(tensor, partial(self._deliver_of, site, self.passing, None))
        else:
            self.on_gradient(base, partial(self._deliver_of, site, self.passing, tensor.shape))

    def _deliver_of(
        self, site: Site, passing: int, shape: torch.Size | None, gradient: Tensor
    ) -> None:
        """Hand over a gradient of the pass ``passing``, which may not be the last one."""
        with self._passes.handing:
            now = self.passing, self.call
            self.passing, self.call = passing, site.index
            try:
                self.deliver(site, gradient if shape is None else gradient.view(shape))
            finally:
                self.passing, self.call = now
