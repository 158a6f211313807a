"""Watches every layer of a model while it trains.

::

    with qprobe.attach(model, run="x.qprobe") as session:
        for batch in batches:
            loss = train_one_step(model, batch)
            session.step(loss=loss)
"""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.probes import carried, ranks
from qprobe.probes.agenda import Agenda
from qprobe.probes.assignment import Slot
from qprobe.probes.ledger import Ledger
from qprobe.probes.observer import Observer
from qprobe.probes.packing import on_host
from qprobe.probes.report import Report, never_seen
from qprobe.probes.results import Results, results
from qprobe.probes.schedule import Schedule
from qprobe.probes.updates import before_updates
from qprobe.records import Array, Column, Record, Status
from qprobe.sites import Capture, Sampling, Site, Trace

#: Looks at one site after which a session warns that nothing has come of them.
_PATIENCE = 3
#: Steps whose scalars wait for the next flush, at most.
_WAITING = 64

Scalar = float | Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a session does beside looking; see :func:`qprobe.attach`."""

    schedules: Mapping[str, Schedule]
    budget: float | None = None
    sampling: Sampling = field(default_factory=Sampling)
    evaluation: bool = False
    loss_scale: float | Callable[[], float] = 1.0
    start: int = 0
    optimizer: torch.optim.Optimizer | None = None
    arrays: int = 10
    told: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    clock: Callable[[], float] = time.perf_counter


class Session:
    """Probes that watch a model; made by :func:`qprobe.attach`, ended by ``with`` or ``close``.

    Call :meth:`step` after each optimizer step, in every process, or attach with the optimizer,
    whose steps then count by themselves. Everything between two calls is
    one step: all micro-batches of a gradient accumulation. Passes in evaluation mode that record no
    gradients do not count, unless asked for.

    **Weights and their gradients** are read when an optimizer of PyTorch is about to step: they are
    then those that the pass has used, and whole. With an optimizer of another kind call
    :meth:`read_weights` before it steps; otherwise weights are read in :meth:`step`, after the
    update, and gradients only if they are still there.

    **Memory** does not grow with steps or tokens: for each tensor with a summary 44 kB at 768
    channels, with the states of all other probes, and what ``update_health`` remembers of a weight,
    at most 64 kB, copies of four examples (or 512 tokens) of at most 64 calls a probe
    that compares tensors of one call, and without a file the latest 200,000 records.

    **Several processes** of the default process group are merged at a flush, in their order; the
    first one writes. A process without a batch calls :meth:`step` all the same.
    """

    def __init__(
        self,
        model: nn.Module,
        slots: tuple[Slot, ...],
        ledger: Ledger,
        trace: Trace | None,
        settings: Settings,
    ) -> None:
        self._model = model
        self._slots = slots
        self._ledger = ledger
        self._settings = settings
        self._agenda = Agenda(slots, settings.schedules, settings.budget)
        self._budget = self._agenda.budget
        self._observer = Observer(
            model, slots, evaluation=settings.evaluation, clock=settings.clock
        )
        sites = dict.fromkeys(site for slot in slots for site in slot.sites)
        self._capture = Capture(
            model, sites, self._observer, trace=trace, sampling=settings.sampling
        )
        self._observer.bind(self._capture)
        self._count = settings.start
        self._looks = self._look_seconds = self._others = 0.0
        self._armed: dict[Slot, int] = {}
        self._missing: dict[Slot, int] = dict.fromkeys(slots, 0)
        self._missed_looks: dict[Slot, int] = {}
        self._counts = {
            "missing": self._missing,
            "missed": self._missed_looks,
            "looked": self._agenda.looked,
            "waiting": self._agenda.waiting,
        }
        self._waiting: list[tuple[int, str, Scalar]] = []
        self._read: set[int] = set()
        self._warned = self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._capture.__enter__()
        self._capture.arm(())
        self._optimizers = [before_updates(self)]
        if self._settings.optimizer is not None:
            counted = self._settings.optimizer.register_step_post_hook
            self._optimizers.append(counted(lambda *_: self._step({})))
        self._ended = self._settings.clock()
        self._arm()

    # What a user calls.

    def step(self, loss: Scalar | None = None, **scalars: Scalar) -> None:
        """An optimizer step is done; ``scalars`` are recorded at every step.

        Tensors are read at the next flush, so that nothing waits for the device here.
        """
        self._check_open()
        if self._settings.optimizer is not None:
            raise InputError(
                "the steps of this session are counted by the optimizer that it was given; leave "
                "step() out, and record numbers with log()."
            )
        self._step(scalars if loss is None else {"loss": loss, **scalars})

    def _step(self, scalars: Mapping[str, Scalar]) -> None:
        began = self._settings.clock()
        self._count += 1
        self._note(scalars)
        looking = self._spent()
        self._others += began - self._ended - looking
        self._budget.step(began - self._ended - looking)
        if self._armed:
            self._look(began)
        elif len(self._waiting) >= _WAITING:
            self._write_waiting()
        self._arm()
        self._ended = self._settings.clock()

    def log(self, **scalars: Scalar) -> None:
        """Record numbers that become known after the step that they are of."""
        self._check_open()
        self._note(scalars)

    def read_weights(self) -> None:
        """Look at weights and their gradients now: before the optimizer steps."""
        self._check_open()
        self._read_weights(self._capture.parameters)

    def observe_next(self) -> None:
        """Let every probe look at the step under way, from the next pass on."""
        self._check_open()
        self._take_up(self._agenda.everything())

    @property
    def steps(self) -> int:
        """The number of the last step that is done."""
        return self._count

    @property
    def due(self) -> bool:
        """Whether the step under way is looked at."""
        return bool(self._armed)

    @property
    def missed(self) -> tuple[tuple[str, Site], ...]:
        """What was planned, and has never happened so far: names of probes, and sites."""
        return tuple(
            (slot.probe.name, slot.site) for slot in self._slots if self._missing.get(slot, 0) > 0
        )

    def report(self) -> Report:
        """What has been done so far, and at what cost."""
        return Report(
            steps=self._count - self._settings.start,
            looks=int(self._looks),
            stretch=self._budget.stretch,
            seconds=self._look_seconds,
            others_s=self._others,
            missed=self.missed,
            step_s=self._budget.step_s,
            expected=self._budget.share(),
            budget=self._budget.limit,
            steps_in_debt=self._budget.steps_in_debt,
            waiting=tuple((slot.probe.name, slot.site) for slot in self._agenda.unseen),
            own=tuple(self._settings.told.get("own_forward", ())),
            unwatched=tuple(self._settings.told.get("unwatched", ())),
            repeated=tuple(self._settings.told.get("repeated", ())),
        )

    def records(self) -> list[Record]:
        """The latest records of a session that writes no file."""
        return self._ledger.records

    def arrays(self) -> list[Array]:
        """The latest array of each kind of a session that writes no file."""
        return self._ledger.arrays

    def state_dict(self) -> dict[str, Any]:
        """What is to be saved between two steps to go on as before; what waits is written first."""
        self._write_waiting()
        return {
            "looks": self._looks,
            "turn": self._capture.turn,
            "passing": self._capture.passing,
            "agenda": self._agenda.state_dict(),
            "references": self._observer.references,
            "slots": carried.saved(self._slots, self._counts),
            "armed": [str(slot) for slot in self._armed],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up, right after attaching with ``start``; probes that are new start anew."""
        self._looks = state["looks"]
        self._capture.turn, self._capture.passing = state["turn"], state["passing"]
        self._agenda.load_state_dict(state["agenda"])
        self._observer.references = dict(state["references"])
        carried.restore(self._slots, state["slots"], self._counts)
        # What was chosen for the next step before it was saved, and now of what is new.
        new = {str(slot) for slot in self._armed} - state["slots"].keys()
        armed = new.union(state["armed"])
        self._take_up([slot for slot in self._slots if str(slot) in armed])

    def close(self, status: Status = Status.FINISHED, reason: str | None = None) -> None:
        """Take all hooks off, write what is left and close the run; closing twice is allowed."""
        if self._closed:
            return
        self._closed = True
        self._capture.__exit__()
        for handle in self._optimizers:
            handle.remove()
        self._observer.forget()
        self._armed = {}
        try:
            if ranks.rank() == 0:
                self._write_waiting()
                self._report_missed()
        finally:
            self._ledger.close(status, reason)
        if status is Status.FINISHED:
            self._warn(patience=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, KeyboardInterrupt):
            self.close(Status.INTERRUPTED, "interrupted from the keyboard")
        else:
            self.close(Status.FAILED, f"{type(error).__name__}: {error}")

    # What happens at a step.

    def _note(self, scalars: Mapping[str, Scalar]) -> None:
        self._waiting += [
            (self._count, key, value.detach() if isinstance(value, Tensor) else value)
            for key, value in scalars.items()
        ]

    def _arm(self) -> None:
        """Get ready for the next step."""
        due = self._agenda.due(self._count + 1)
        if due or self._armed:
            self._take_up(due)

    def _take_up(self, due: Iterable[Slot]) -> None:
        self._armed = {slot: self._agenda.account(slot) for slot in due}
        self._read = set()
        self._observer.step = self._count + 1
        if self._armed:
            scale = self._settings.loss_scale
            self._observer.loss_scale = float(scale() if callable(scale) else scale)
        self._capture.arm(self._observer.arm(self._armed.items()))

    def before_update(self, optimizer: torch.optim.Optimizer, given: tuple[Any, ...]) -> None:
        """``optimizer`` is about to step with ``given``; with a closure it first runs the model."""
        if self._armed and not any(callable(one) for one in given):
            held = {id(one) for group in optimizer.param_groups for one in group["params"]}
            self._read_weights(held & self._capture.parameters)

    def _read_weights(self, parameters: set[int]) -> None:
        unread = parameters - self._read
        self._read |= unread
        if unread:
            self._capture.read_weights(unread)

    def _spent(self) -> float:
        return sum(self._observer.spent.values())

    def _look(self, began: float) -> None:
        """Flush what the armed probes have seen, and count what it cost."""
        self._read_weights(self._capture.parameters)
        spent, self._observer.spent = self._observer.spent, {}
        found = results(self._slots, self._armed, self._observer, self._waiting)
        self._waiting = []
        self._looks += 1
        self._capture.turn += 1
        if found is not None:
            self._write(found.beside)
            self._file(found)
        flushing = self._settings.clock() - began
        seconds = sum(spent.values()) + flushing
        self._look_seconds += seconds
        self._agenda.paid(self._armed, spent, flushing)
        self._budget.choose(ranks.agree(self._count, self._budget.share(stretch=1)))
        if ranks.rank() == 0:
            self._ledger.scalars(self._count, self._own(seconds))
            self._ledger.flush()

    def _file(self, found: Results) -> None:
        for values in found.scalars.values():
            self._ledger.scalars(self._count, values)
        if self._settings.arrays and self._agenda.rounds % self._settings.arrays == 0:
            self._ledger.keep(found.arrays(self._count))
        for slot in self._armed:
            if slot in found.seen:
                self._missing[slot] = -1
            else:
                self._missed_looks[slot] = self._missed_looks.get(slot, 0) + 1
                if self._missing[slot] >= 0:
                    self._missing[slot] += 1
        self._warn(patience=_PATIENCE)

    def _own(self, seconds: float) -> dict[Column, float]:
        """The session's numbers about itself."""
        budget = self._budget
        found = {
            "interval": self._agenda.interval(self._armed) * budget.stretch,
            "stretch": budget.stretch,
            "seconds": seconds,
            "step_s": budget.step_s,
            "overhead_percent": 100.0 * budget.share(),
            "loss_scale": self._observer.loss_scale,
            "processes": ranks.size(),
            "missed": sum(1 for slot in self._armed if self._missing[slot] >= 0),
            "waiting": len(self._agenda.unseen),
        }
        return {
            Column("", "", "session", key): float(value)
            for key, value in found.items()
            if value is not None
        }

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if ranks.rank() == 0 and waiting:
            self._write(on_host(waiting))
            self._ledger.flush()

    def _write(self, waiting: Iterable[tuple[int, str, Scalar]]) -> None:
        for step, key, value in waiting:
            self._ledger.scalar(step, Column("", "", "training", key), float(value))

    def _report_missed(self) -> None:
        step = self._count
        by_probe: dict[str, dict[Column, float]] = {}
        for slot, looks in self._missed_looks.items():
            key = f"missed.{slot.probe.name}"
            column = Column(slot.site.name, str(slot.site.role), "session", key)
            by_probe.setdefault(slot.probe.name, {})[column] = float(looks)
        for values in by_probe.values():
            for column, value in values.items():
                self._ledger.scalar(step, column, value)

    def _warn(self, *, patience: int) -> None:
        """Say once that planned observations do not happen."""
        deaf = [slot for slot, count in self._missing.items() if count >= patience]
        if self._warned or not deaf:
            return
        self._warned = True
        warnings.warn(never_seen(deaf), stacklevel=4)

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this session is closed; attach a new one.")
