"""From the states of a flush to numbers with a name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qprobe.probes import ranks
from qprobe.probes.assignment import Slot
from qprobe.probes.axis import channel_axis
from qprobe.probes.base import JointProbe, Probe, SiteView, State
from qprobe.probes.batched import Batched, scalars_of
from qprobe.probes.observer import Observer, draw_of
from qprobe.probes.packing import on_host, pack
from qprobe.probes.summary import Summary
from qprobe.records import Array, Column
from qprobe.sites import Site


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Results:
    """What one flush found, in the host's memory."""

    states: Mapping[str, Mapping[Site, State]]
    #: What was planned and happened, also where a probe had nothing to see.
    seen: frozenset[Slot]
    #: What else was to be brought there.
    beside: Any = None

    @property
    def scalars(self) -> dict[str, dict[Column, float]]:
        """All scalars, by probe."""
        found: dict[str, dict[Column, float]] = {}
        for name, states in self.states.items():
            values = found.setdefault(name, {})
            for site, scalars in zip(states, _scalars(list(states.values())), strict=True):
                where, role = site.name, str(site.role)
                for key, value in scalars.items():
                    values[Column(where, role, name, key)] = value
        return found

    def arrays(self, step: int) -> list[Array]:
        """All arrays."""
        return [
            Array(
                step=step,
                site=site.name,
                role=str(site.role),
                probe=name,
                key=key,
                data=value.detach().numpy(),
            )
            for name, states in self.states.items()
            for site, state in states.items()
            for key, value in state.arrays().items()
        ]


def _scalars(states: list[State]) -> list[dict[str, float]]:
    """The scalars of each; of states that can be taken together, together."""
    batched = [(place, one) for place, one in enumerate(states) if isinstance(one, Batched)]
    together = dict(
        zip([p for p, _ in batched], scalars_of([one for _, one in batched]), strict=True)
    )
    return [
        together[place]
        if place in together
        else {key: float(value) for key, value in state.scalars().items()}
        for place, state in enumerate(states)
    ]


def results(
    slots: tuple[Slot, ...], armed: Iterable[Slot], observer: Observer, beside: Any = None
) -> Results | None:
    """Bring states and summaries of all processes to the host of the first, in one copy each.

    None on the other processes. Probes of summaries look here, when all is merged. ``beside`` is
    what else the first process wants to have there: it comes in the same copy.
    """
    numbers = {slot: number for number, slot in enumerate(slots)}
    looked = {numbers[slot] for slot in observer.looked}
    states, summaries = observer.take()
    numbered = {numbers[slot]: state for slot, state in states.items()}
    mine = (numbered, summaries, looked, beside if ranks.rank() == 0 else None)
    parts = [on_host(mine)] if ranks.size() == 1 else ranks.gather(pack(mine))
    if parts is None:
        return None
    whole = {slot.site for slot in slots if slot.replicated}
    merged, merged_summaries, looked, beside = parts[0]
    for theirs, others, too, _ in parts[1:]:  # all have the same weights, unless sharded
        ranks.merge(merged, {n: one for n, one in theirs.items() if slots[n].site not in whole})
        ranks.merge(merged_summaries, {at: s for at, s in others.items() if at not in whole})
        looked |= too
    found = {slots[number]: state for number, state in merged.items()}
    seen = {slots[number] for number in looked}
    for slot in armed:
        if slot.measure is not None and slot.site in merged_summaries:
            seen.add(slot)
            state = _of_summary(slot, merged_summaries[slot.site], observer)
            if state is not None:
                found[slot] = state
    return Results(states=_by_probe(found), seen=frozenset(seen), beside=beside)


def _of_summary(slot: Slot, summary: Summary, observer: Observer) -> State | None:
    view = SiteView(
        site=slot.site,
        module=slot.module,
        summary=summary,
        axis=channel_axis(slot.site, slot.module, 4),
        step=observer.step,
        draw=draw_of(observer.step, 0),
        loss_scale=observer.loss_scale,
        memory=slot.memory,
    )
    try:
        return slot.probe.observe(view)
    except Exception as error:
        error.add_note(f"while the probe {slot} was looking")
        raise


def _by_probe(found: Mapping[Slot, State]) -> dict[str, dict[Site, State]]:
    states: dict[str, dict[Site, State]] = {}
    probes: dict[str, Probe] = {}
    for slot, state in found.items():
        states.setdefault(slot.probe.name, {})[slot.site] = state
        probes[slot.probe.name] = slot.probe
    for name, probe in probes.items():
        if isinstance(probe, JointProbe):
            states[name] |= probe.join(states[name])
    return states
