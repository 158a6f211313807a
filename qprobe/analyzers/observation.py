"""What passive analyzers read: one run over a subject's batches, and its high-precision control.

Every batch goes forward and backward under a session of probes, and all of them together are one
look: states merge over batches exactly, as micro-batches do. The control is the same at the same
weights with every recipe lifted. Its records carry the name of their probe with a suffix, so that
both stand side by side in one file: :func:`control` of a name is what an analyzer reads and what a
picture shows.
"""

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.wording import listed
from qprobe.errors import InputError
from qprobe.probes.assignment import assign
from qprobe.probes.attach import attach
from qprobe.probes.base import PROBES, ComparingProbe, Probe
from qprobe.quant.convert import restored
from qprobe.quant.products import Setup
from qprobe.records.schema import Array, Record, Role
from qprobe.sites import Site, Trace, discover, trace
from qprobe.sites.discover import by_path, owners

#: What the name of a probe ends in where the model was in high precision.
CONTROL = ".high_precision"
#: Why a probe has nothing to look at.
NO_SITE = "the model has no such site"
NOT_QUANTIZED = "nothing there is under a recipe"
#: What is said of layers that no batch came to.
IDLE = "never ran"
#: The session's own numbers, which are about itself and not about the model.
_SESSION = frozenset({"session", "training"})


def control(probe: str) -> str:
    """The name under which the control of a probe is filed.

    >>> control("branch_energy")
    'branch_energy.high_precision'
    """
    return probe + CONTROL


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """What one run over the batches has shown."""

    records: tuple[Record, ...] = ()
    arrays: tuple[Array, ...] = ()
    #: What was asked for and not seen, each with the reason.
    not_measured: tuple[str, ...] = ()


def observe(
    subject: Subject, reads: Iterable[str | Probe], *, batches: int | None = None
) -> Observation:
    """Run the subject's batches under the probes that are named, and the control where it is.

    ``reads`` holds names of probes, probes, and names of controls; names that no probe has (an
    active analyzer's own records) are left to whoever measures them. ``batches`` takes only the
    first few. Parameters, gradients, modes, buffers and random states are as before afterwards.
    """
    wanted = list(dict.fromkeys(reads))
    named = sorted(one for one in wanted if isinstance(one, str))
    probes = [PROBES.get(name) for name in named if name in PROBES.names()]
    probes += [one for one in wanted if not isinstance(one, str)]
    lifted = [name.removesuffix(CONTROL) for name in named if name.endswith(CONTROL)]
    controls = [PROBES.get(name) for name in lifted]
    found = Observation()
    if not probes and not controls:
        return found
    example = _example(subject)
    if probes:
        found = _run(subject, probes, batches, example)
    if controls:
        with restored(subject.model, under_recipe(subject.model)):
            found = _both(found, _as_control(_run(subject, controls, batches, example)))
    return found


def under_recipe(model: nn.Module) -> list[str]:
    """Paths of all modules that are under a recipe, in the order of the model."""
    return [
        path
        for path, module in model.named_modules()
        if isinstance(getattr(module, "setup", None), Setup)
    ]


def _both(one: Observation, other: Observation) -> Observation:
    return Observation(
        records=one.records + other.records,
        arrays=one.arrays + other.arrays,
        not_measured=one.not_measured + other.not_measured,
    )


def _as_control(found: Observation) -> Observation:
    return Observation(
        records=tuple(
            Record(r.run, r.step, r.site, r.role, control(r.probe), r.key, r.value)
            for r in found.records
        ),
        arrays=tuple(replace(one, probe=control(one.probe)) for one in found.arrays),
        # What a model has no site for, or never runs, its control does not miss once more.
        not_measured=tuple(
            f"{one} (control)"
            for one in found.not_measured
            if not one.endswith((NO_SITE, NOT_QUANTIZED, IDLE))
        ),
    )


def _run(
    subject: Subject, probes: Sequence[Probe], batches: int | None, example: Any
) -> Observation:
    """One look over all batches; the trace is of the model as it is, with or without recipes."""
    model = subject.model
    with undisturbed(model):
        named = isinstance(example, Mapping)
        traced = trace(model, **example) if named else trace(model, *example)
        there, absent = _with_a_site(model, probes, traced)
        if not there:
            return Observation(not_measured=absent)
        session = attach(
            model, probes=there, every=1, schedule={p.name: 1 for p in there}, example=traced,
            evaluation=True,
        )  # fmt: skip
        with warnings.catch_warnings(), session:
            warnings.filterwarnings("ignore", message="planned and never seen")
            backward = True
            for batch in islice(subject.batches(), batches):
                backward &= _pass(subject, batch)
            session.step()
        records = tuple(one for one in session.records() if one.probe not in _SESSION)
        missed = tuple(_never_seen(session.missed))
    if not backward:
        absent += ("gradients: the loss does not depend on anything that is learned",)
    return Observation(
        records=records, arrays=tuple(session.arrays()), not_measured=absent + missed
    )


def _never_seen(missed: Iterable[tuple[str, Site]]) -> Iterator[str]:
    """What was planned and did not come, in as few words: a layer that never ran has nothing."""
    by_layer: dict[str, dict[Site, list[str]]] = {}
    for probe, site in missed:
        by_layer.setdefault(site.path, {}).setdefault(site, []).append(probe)
    idle = [path for path, sites in by_layer.items() if any(s.role is Role.INPUT for s in sites)]
    if idle:
        yield f"{listed(idle, most=3)} {IDLE}"
    for path, sites in by_layer.items():
        for site, probes in sites.items() if path not in idle else ():
            yield f"{listed(probes)} at {site}: never seen"


def _with_a_site(
    model: nn.Module, probes: Sequence[Probe], traced: Trace
) -> tuple[list[Probe], tuple[str, ...]]:
    """The probes that have something to look at here, and of each other one that it has not."""
    sites = [*discover(model), *traced.sites]
    owned = by_path(owners(model))
    there: list[Probe] = []
    absent: list[str] = []
    for probe in probes:
        if not any(probe.selects(site) for site in sites):
            absent.append(f"{probe.name}: {NO_SITE}")
            continue
        try:
            assign([probe], sites, owned, lenient=False)
        except InputError as error:  # one that has no question here keeps no other from looking
            compares = isinstance(probe, ComparingProbe)
            absent.append(f"{probe.name}: {NOT_QUANTIZED if compares else str(error).rstrip('.')}")
        else:
            there.append(probe)
    return there, tuple(absent)


def _pass(subject: Subject, batch: Any) -> bool:
    """Forward and backward of one batch; whether there was a gradient to take."""
    losses = subject.loss(subject.forward(subject.model, batch), batch)
    if not losses.requires_grad:
        return False
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return True


def _example(subject: Subject) -> Any:
    """What the model is called with for the first batch: a tuple, or a mapping of keywords."""
    first = next(iter(subject.batches()), None)
    if first is None:
        raise InputError(f"{subject.name} has no batch to look at; give batches() some.")
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    handle = subject.model.register_forward_pre_hook(keep, with_kwargs=True, prepend=True)
    try:
        with undisturbed(subject.model), torch.no_grad():
            subject.forward(subject.model, first)
    finally:
        handle.remove()
    if not calls:
        raise InputError(
            f"forward of {subject.name} does not call its model; give one that calls "
            "subject.model, so that its layers can be watched."
        )
    args, kwargs = calls[0]
    if not kwargs:
        return args
    bound = inspect.signature(subject.model.forward).bind(*args, **kwargs)
    return dict(bound.arguments) if not bound.kwargs.keys() - bound.arguments.keys() else kwargs


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode inside, and after it as if nothing had happened.

    Modes, gradients, buffers, and the random states of PyTorch and of the recipes are put back.
    """
    modes = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with ExitStack() as stack:
        devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        stack.enter_context(torch.random.fork_rng(devices=sorted(devices, key=str)))
        for generator in generators(model):
            stack.callback(generator.set_state, generator.get_state())
        stack.callback(_put_back, modes, gradients, buffers)
        stack.enter_context(torch.enable_grad())
        for parameter in gradients:
            parameter.grad = None
        model.eval()
        yield


def _put_back(
    modes: Mapping[nn.Module, bool],
    gradients: Mapping[nn.Parameter, Tensor | None],
    buffers: Sequence[tuple[Tensor, Tensor]],
) -> None:
    for module, training in modes.items():
        module.training = training
    for parameter, gradient in gradients.items():
        parameter.grad = gradient
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)


def generators(model: nn.Module) -> list[torch.Generator]:
    """The generators that layers under a recipe draw from, each once."""
    setups = (getattr(module, "setup", None) for module in model.modules())
    found = [one.generator for one in setups if isinstance(one, Setup)]
    return list({id(one): one for one in found if one is not None}.values())
