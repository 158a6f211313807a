"""The front door: from a model and names of probes to a session."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from os import PathLike
from typing import Any

import torch
from torch import nn

from qprobe import records
from qprobe.errors import InputError
from qprobe.probes import ranks
from qprobe.probes.assignment import assign
from qprobe.probes.base import PROBES, Probe, named
from qprobe.probes.budget import share
from qprobe.probes.compiled import refuse_deaf, unwrapped
from qprobe.probes.ledger import Ledger, Sink
from qprobe.probes.schedule import Every, Schedule
from qprobe.probes.session import Session, Settings
from qprobe.records import Column, RunInfo, RunWriter
from qprobe.records.software import software
from qprobe.sites import Sampling, Site, Trace, discover, trace
from qprobe.sites.discover import by_path, owners
from qprobe.sites.own_forward import OWN
from qprobe.sites.site import ROOT
from qprobe.sites.unwatched import unwatched

#: What is left out of "default": probes that say so, by an attribute ``default = False``.
DEFAULT = "default"


def attach(  # noqa: PLR0913 - each is a choice of the caller, and has a default
    model: nn.Module,
    run: str | PathLike[str] | RunWriter | None = None,
    probes: str | Sequence[str | Probe] = DEFAULT,
    *,
    every: int = Every().interval,
    sites: str | Iterable[str | Site] | None = None,
    schedule: Mapping[str, Schedule | int] | None = None,
    budget: str | float | None = None,
    example: Any = None,
    sampling: Sampling | None = None,
    sink: Sink | Sequence[Sink] = (),
    evaluation: bool = False,
    loss_scale: float | Callable[[], float] = 1.0,
    start: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    arrays: int = 10,
    clock: Callable[[], float] = time.perf_counter,
) -> Session:
    """Watch ``model`` while it trains, from now until the session is closed.

    Attach before the model is first run compiled; wrappers of ``torch.compile`` and of distributed
    data parallelism are looked through. Outputs and gradients keep their bits.

    ``run``
        Path of a run file to write (taken up again if ``start`` is above 0), a writer that somebody
        else flushes and closes, or None: the latest records are kept in memory.
    ``probes``
        Names or objects; ``"default"`` is every registered probe that finds a site here.
    ``every``
        Steps are counted from 1; looked at are the first one and every tenth after it. A probe with
        an attribute ``every`` is asked no more often than that.
    ``sites``
        A glob of module paths such as ``"encoder.*"``, several of them, or sites; None: all. What
        a probe needs beside a site it finds in the whole model.
    ``schedule``
        Schedules or intervals of single probes, by name.
    ``budget``
        Share of the training's time that looking may take, ``"2%"``: intervals are made longer, and
        shorter again, as it takes to keep it. Measured is time in this thread.
    ``example``
        A batch, as the model takes it (a tuple of arguments, a mapping of keywords, or one tensor).
        With it the model is traced once, which finds fusions and attention in modules of others;
        what :func:`qprobe.sites.trace` found before will do as well.
    ``sampling``
        How many samples, heads and queries of an attention are looked at.
    ``sink``
        Told of every number, as ``writer.add_scalar`` is, or several of them; of Weights & Biases a
        :class:`~qprobe.integrations.wandb.WandbSink`. Its ``flush``, if any, ends each look.
    ``evaluation``
        Also look at passes in evaluation mode that record no gradients.
    ``loss_scale``
        What the loss is multiplied with before backward, or who knows: ``scaler.get_scale``. It is
        recorded, and probes of gradients may divide it out. Gradients are those of one process:
        the average over processes comes later.
    ``start``
        Steps done before, in a training that goes on.
    ``optimizer``
        Counts a step whenever this optimizer has stepped: :meth:`Session.step` is not called then.
    ``arrays``
        Histograms and maps are kept of one look in so many; 0: never.
    """
    model = unwrapped(model)
    refuse_deaf(model)
    found = _traced(model, example)
    available = [*discover(model), *(found.sites if found else ())]
    chosen = (
        _default() if probes == DEFAULT else named([probes] if isinstance(probes, str) else probes)
    )
    selected = _selected(available, sites)
    slots = assign(
        chosen,
        selected,
        by_path(owners(model)),
        available=available,
        lenient=probes == DEFAULT,
    )
    chosen = tuple(dict.fromkeys(slot.probe for slot in slots))
    told: dict[str, Mapping[str, float]] = {"own_forward": dict.fromkeys(_own(selected), 1.0)}
    if sites is None:  # who chose sites knows
        told["unwatched"] = unwatched(model)
        told["repeated"] = found.repeated if found else {}
    settings = Settings(
        schedules=_schedules(chosen, every, schedule or {}),
        budget=share(budget),
        sampling=sampling or Sampling(),
        evaluation=evaluation,
        loss_scale=loss_scale,
        start=start,
        optimizer=optimizer,
        arrays=arrays,
        told=told,
        clock=clock,
    )
    sinks = (sink,) if callable(sink) else tuple(sink)
    writer = _writer(run, chosen, every, start)
    ledger = Ledger(writer, owned=not isinstance(run, RunWriter), sinks=sinks)
    try:
        if ranks.rank() == 0:
            for what, said in told.items():
                for path, value in said.items():
                    ledger.scalar(start + 1, Column(path, "", "session", what), float(value))
        return Session(model, slots, ledger, found, settings)
    except BaseException as error:
        ledger.close(records.Status.FAILED, f"{type(error).__name__}: {error}")
        raise


def _traced(model: nn.Module, example: Any) -> Trace | None:
    if example is None or isinstance(example, Trace):
        return example
    if isinstance(example, Mapping):
        return trace(model, **example)
    return trace(model, *example) if isinstance(example, tuple | list) else trace(model, example)


def _default() -> tuple[Probe, ...]:
    found = tuple(probe for probe in PROBES if getattr(probe, "default", True))
    if not found:
        raise InputError("no probe is registered; install one, or pass probes=[...].")
    return found


def _selected(available: Sequence[Site], wanted: str | Iterable[str | Site] | None) -> list[Site]:
    if wanted is None:
        return list(available)
    kept: set[Site] = set()
    for one in [wanted] if isinstance(wanted, str) else wanted:
        if isinstance(one, Site):
            matching = [site for site in available if site == one]
        else:
            matching = [site for site in available if fnmatchcase(site.path or ROOT, one)]
        if not matching:
            raise InputError(
                f"the model has no site {str(one)!r}; qprobe.sites.discover(model) lists what it "
                "has, and fusions and foreign attention are found with example=."
            )
        kept.update(matching)
    return [site for site in available if site in kept]


def _own(sites: Iterable[Site]) -> tuple[str, ...]:
    """The layers that compute something of their own, of which no product is judged."""
    return tuple(dict.fromkeys(site.name for site in sites if site.kind.startswith(OWN)))


def _schedules(
    probes: Iterable[Probe], every: int, given: Mapping[str, Schedule | int]
) -> dict[str, Schedule]:
    schedules: dict[str, Schedule] = {
        probe.name: Every(max(every, getattr(probe, "every", 1))) for probe in probes
    }
    for name, one in given.items():
        if name not in schedules:
            raise InputError(
                f"a schedule is given for {name!r}, which does not look here; the probes are "
                f"{', '.join(schedules)}."
            )
        schedules[name] = Every(one) if isinstance(one, int) else one
    return schedules


def _writer(
    run: str | PathLike[str] | RunWriter | None, probes: Iterable[Probe], every: int, start: int
) -> RunWriter | None:
    if run is None or ranks.rank() != 0:
        return None
    if isinstance(run, RunWriter):
        return run
    if start:
        return records.resume(run, after_step=start)
    environment: dict[str, records.schema.Json] = {
        **software(),
        "threads": torch.get_num_threads(),
        "processes": ranks.size(),
    }
    config: dict[str, records.schema.Json] = {
        "probes": [probe.name for probe in probes],
        "every": every,
    }
    return records.create(run, RunInfo(config=config, environment=environment))
