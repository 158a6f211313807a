"""From the states of a flush to numbers with a name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qprobe.probes import ranks
from qprobe.probes.assignment import Slot
from qprobe.probes.axis import channel_axis
from qprobe.probes.base import JointProbe, Probe, SiteView, State
from qprobe.probes.observer import Observer, draw_of
from qprobe.probes.packing import on_host, pack
from qprobe.probes.summary import Summary
from qprobe.records import Array, Column
from qprobe.sites import Site


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Results:
    """What one flush found, in the host's memory."""

    states: Mapping[str, Mapping[Site, State]]
    #: What was planned and happened.
    seen: frozenset[Slot]

    @property
    def scalars(self) -> dict[str, dict[Column, float]]:
        """All scalars, by probe."""
        found: dict[str, dict[Column, float]] = {}
        for name, states in self.states.items():
            values = found.setdefault(name, {})
            for site, state in states.items():
                for key, value in state.scalars().items():
                    values[Column(site.name, str(site.role), name, key)] = float(value)
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


def results(
    slots: tuple[Slot, ...],
    armed: Iterable[Slot],
    states: Mapping[Slot, State],
    summaries: Mapping[Site, Summary],
    observer: Observer,
) -> Results | None:
    """Bring states and summaries of all processes to the host of the first, in one copy each.

    None on the other processes. Probes of summaries look here, when all is merged.
    """
    numbers = {slot: number for number, slot in enumerate(slots)}
    merged_states: dict[int, State] = {}
    merged_summaries: dict[Site, Summary] = {}
    mine = ({numbers[slot]: state for slot, state in states.items()}, dict(summaries))
    if ranks.size() == 1:
        merged_states, merged_summaries = on_host(mine)
    else:
        parts = ranks.gather(pack(mine))
        if parts is None:
            return None
        whole = {slot.site for slot in slots if slot.replicated}
        merged_states, merged_summaries = parts[0]
        for theirs, others in parts[1:]:  # all have the same weights, unless they are sharded
            seen = {n: one for n, one in theirs.items() if slots[n].site not in whole}
            ranks.merge(merged_states, seen)
            ranks.merge(
                merged_summaries, {at: one for at, one in others.items() if at not in whole}
            )
    found = {slots[number]: state for number, state in merged_states.items()}
    for slot in armed:
        if slot.measure is not None and slot.site in merged_summaries:
            state = _of_summary(slot, merged_summaries[slot.site], observer)
            if state is not None:
                found[slot] = state
    return Results(states=_by_probe(found), seen=frozenset(found))


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
