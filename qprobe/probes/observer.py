"""What happens when a hook hands a tensor over."""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from qprobe.errors import UnsuitableError
from qprobe.native import Sampled
from qprobe.probes.assignment import Slot
from qprobe.probes.axis import channel_axis
from qprobe.probes.base import SiteView, State
from qprobe.probes.packing import on_host
from qprobe.probes.pending import Pending
from qprobe.probes.rebuilt import Rebuilt
from qprobe.probes.summary import Summary, TokenSample
from qprobe.records.schema import Role
from qprobe.sites import Capture, Site
from qprobe.sites.attending import ATTENDING, Drawn

_BACKWARD: Final = frozenset({Role.GRAD_OUTPUT, Role.GRAD_WEIGHT, Role.WEIGHT, Role.BRANCH})
_MULTIPLIER: Final = 0x9E3779B97F4A7C15


def draw_of(step: int, look: int) -> int:
    """A number without a pattern for each step and look, the same in all processes.

    >>> draw_of(1, 0) != draw_of(1, 1) != draw_of(2, 0)
    True
    """
    mixed = ((step << 20) + look + 1) * _MULTIPLIER % 2**64
    return ((mixed ^ (mixed >> 29)) * _MULTIPLIER % 2**64) >> 33


@dataclass(slots=True)
class _Wanted:
    """What is armed at one site."""

    measure: Sampled | None = None
    interval: int = 0
    alone: list[Slot] = field(default_factory=list)
    together: list[Slot] = field(default_factory=list)
    #: The axis of channels, by the number of dimensions.
    axes: dict[int, int] = field(default_factory=dict)


class _Drawing(Mapping[Role, Tensor]):
    """Logits or probabilities, computed for who reads them."""

    def __init__(self, role: Role, drawn: Drawn) -> None:
        self._role, self._drawn = role, drawn

    def __getitem__(self, role: Role) -> Tensor:
        if role is not self._role:
            raise KeyError(role)
        return self._drawn.tensor(role)

    def __iter__(self) -> Iterator[Role]:
        return iter((self._role,))

    def __len__(self) -> int:
        return 1


class Observer:
    """Takes tensors from a :class:`~qprobe.sites.Capture` and lets the armed probes look at them.

    What it holds: a summary for each site that is armed for one, the merged states of probes, and
    copies of a few examples of calls whose gradient is still to come. :meth:`take` gives the
    results and forgets them.
    """

    def __init__(
        self,
        model: nn.Module,
        slots: Sequence[Slot],
        *,
        evaluation: bool,
        clock: Callable[[], float],
    ) -> None:
        self.step = 0
        self.loss_scale = 1.0
        #: Seconds spent on looking, by the account that it is charged to.
        self.spent: dict[int, float] = {}
        #: How many tensors something has looked at.
        self.looks = 0
        self._capture: Capture | None = None
        self._model, self._rebuilt = model, Rebuilt(model)
        self._evaluation = evaluation
        self._clock = clock
        self._wanted: dict[Site, _Wanted] = {}
        self._intervals: dict[Slot, int] = {}
        self._states: dict[Slot, State] = {}
        self._summaries: dict[Site, Summary] = {}
        self._summarised: set[Site] = set()
        #: Slots whose probe has looked, whether or not there was something to see; not those of an
        #: attention whose queries and keys could not be told.
        self.looked: set[Slot] = set()
        self._references: dict[str, Tensor] = {}
        self._told: set[Site] = set()
        self._pending = Pending()
        self._modules = {slot.site: slot.module for slot in slots}
        self._lock = threading.RLock()

    def bind(self, capture: Capture) -> None:
        """Take tensors from ``capture``."""
        self._capture = capture

    def __call__(self, site: Site, tensor: Tensor) -> None:
        """One tensor, from a hook or from compiled code."""
        capture = self._capture
        if self._wanted and capture and self._counts(site, recording=capture.recording):
            self._look(site, tensor, (capture.passing, capture.call))

    def drawn(self, site: Site, drawn: Drawn) -> None:
        """A sample of an attention."""
        wanted, capture = self._wanted.get(site.merged), self._capture
        if wanted is None or capture is None or not self._counts(site, recording=capture.recording):
            return
        if wanted.together or wanted.measure is not None:
            self._look(site, drawn.tensor(site.role), (capture.passing, capture.call))
            return
        with self._lock:
            self.looks += 1
            for slot in wanted.alone:
                self._observe(slot, _Drawing(site.role, drawn), capture.passing)

    def _counts(self, site: Site, *, recording: bool) -> bool:
        """Whether a call counts that does, or does not, record gradients."""
        passing = recording or self._evaluation or self._model.training
        return passing or site.role in _BACKWARD

    def arm(self, slots: Iterable[tuple[Slot, int]]) -> frozenset[Site]:
        """Look for these slots, each charged to an account; gives the sites to watch.

        What several share is charged to the lowest number.
        """
        self._wanted, self._intervals = {}, {}
        self._pending.clear()
        for slot, interval in slots:
            self._intervals[slot] = interval
            for site in slot.sites:
                wanted = self._wanted.setdefault(site, _Wanted())
                if slot.measure is not None:
                    wanted.measure = (wanted.measure or Sampled.NOTHING) | slot.measure
                    wanted.interval = min(wanted.interval or interval, interval)
                elif slot.companions or slot.weighted:
                    wanted.together.append(slot)
                else:
                    wanted.alone.append(slot)
        return frozenset(self._wanted)

    def take(self) -> tuple[dict[Slot, State], dict[Site, Summary]]:
        """The states and summaries since the last time."""
        states, self._states = self._states, {}
        summaries = {site: self._summaries[site] for site in self._summarised}
        for site, summary in summaries.items():
            self._summaries[site] = summary.fresh()
        self._summarised.clear()
        self.looked.clear()
        self._rebuilt.warn()
        for slot in self._pending.clear():
            self._say(
                slot.site,
                f"of several calls of {slot.site.path!r} in compiled code one had no gradient, so "
                f"{slot.probe.name} may have taken the tensors of different calls together; "
                "compile the part that calls it several times as one graph, or leave it out.",
            )
        return states, summaries

    @property
    def references(self) -> dict[str, Tensor]:
        """By site the magnitude that NVFP4 scales the next tensor by, the only memory of others."""
        known = {str(site): one.fields.reference for site, one in self._summaries.items()}
        found: dict[str, Tensor] = on_host(known)
        return self._references | found

    @references.setter
    def references(self, found: dict[str, Tensor]) -> None:
        self._references = found

    def forget(self) -> None:
        """Let go of everything that is held."""
        self.arm(())
        self.take()
        self._summaries.clear()

    def _look(self, site: Site, tensor: Tensor, call: tuple[int, int]) -> None:
        key, passing = site.merged, call[0]
        wanted = self._wanted.get(key)
        if wanted is None or not _dense(tensor):
            return
        with self._lock:  # backward has a thread for each device
            self.looks += 1
            if wanted.measure is not None:
                began = self._clock()
                self._summarise(key, tensor, wanted, passing)
                self._charge(wanted.interval, began)
            for slot in wanted.alone:
                self._observe(slot, {key.role: tensor}, passing)
            for slot in wanted.together:
                self._gather(slot, key.role, tensor, call)

    def _charge(self, interval: int, began: float) -> None:
        seconds = self._clock() - began
        self.spent[interval] = self.spent.get(interval, 0.0) + seconds

    def _summarise(self, key: Site, tensor: Tensor, wanted: _Wanted, passing: int) -> None:
        dims, measure = tensor.dim(), wanted.measure or Sampled.NOTHING
        axis = wanted.axes.get(dims)
        if axis is None:
            axis = wanted.axes[dims] = channel_axis(key, self._modules.get(key), dims)
        tensor = tensor.float() if tensor.dtype is torch.float64 else tensor
        summary = self._summaries.get(key)
        if summary is not None and summary.channels != tensor.shape[axis]:
            if key in self._summarised:
                self._uneven(key, summary.channels, tensor.shape[axis])
                return
            summary = None
        if summary is None or summary.buffer.device != tensor.device:
            summary = Summary(tensor.shape[axis], tensor.device)
            if str(key) in self._references:
                known = self._references.pop(str(key))
                summary.fields.reference.copy_(known, non_blocking=True)
            self._summaries[key] = summary
        sample = TokenSample(draw=draw_of(self.step, passing))
        try:
            summary.observe(tensor, axis, sample=sample, measure=measure)
        except Exception as error:
            error.add_note(f"while summarising {key}")
            raise
        self._summarised.add(key)

    def _uneven(self, key: Site, channels: int, others: int) -> None:
        """Say once that tensors of one step differ in their channels, and which of them count."""
        self._say(
            key,
            f"{key} has {others} channels after {channels} in one step, and is summarised for "
            "the first ones only; put a qprobe.sites.Tap where the channels are alike.",
        )

    def _say(self, site: Site, sentence: str) -> None:
        """Warn of something about a site, once."""
        if site not in self._told:
            self._told.add(site)
            warnings.warn(sentence, stacklevel=3)

    def _gather(self, slot: Slot, role: Role, tensor: Tensor, call: tuple[int, int]) -> None:
        """One of several tensors of a call; the last one lets the probe look."""
        began = self._clock()
        draw = draw_of(self.step, call[0])
        tensors = self._pending.add(slot, role, tensor, call=call, draw=draw)
        self._charge(self._intervals[slot], began)
        if tensors is None:
            return
        if slot.weighted:
            weight = None if self._capture is None else self._capture.weight(slot.site)
            if weight is None:
                return
            tensors[Role.WEIGHT] = weight.detach()
        self._observe(slot, tensors, call[0])

    def _observe(self, slot: Slot, tensors: Mapping[Role, Tensor], passing: int) -> None:
        began = self._clock()
        dims = 4 if slot.site.role in ATTENDING else tensors[slot.site.role].dim()
        view = SiteView(
            site=slot.site,
            module=slot.module,
            tensors=tensors,
            attended=None if self._capture is None else self._capture.attended,
            axis=channel_axis(slot.site, slot.module, dims),
            step=self.step,
            draw=draw_of(self.step, passing),
            loss_scale=self.loss_scale,
            memory=slot.memory,
            beside=slot.beside,
        )
        try:
            state = slot.probe.observe(view)
        except UnsuitableError:  # such as a layer that is one by its class alone: never looked at
            return
        except Exception as error:
            shape = list(tensors[slot.site.role].shape)
            error.add_note(f"while the probe {slot}, shape {shape}, was looking")
            raise
        if state is not None or view.attended is not None or slot.site.role not in ATTENDING:
            self.looked.add(slot)
        if state is not None:
            known = self._states.get(slot)
            self._states[slot] = state if known is None else known.merge(state)
        self._charge(self._intervals[slot], began)


def _dense(tensor: Tensor) -> bool:
    """Whether it can be read: real numbers in rows of one length, and not for torch.func only."""
    plain = tensor.layout is torch.strided and not tensor.is_nested
    transformed = torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # noqa: SLF001
    return plain and tensor.is_floating_point() and not transformed
