"""Which slots a look takes: those that are due, as far as the budget has room for them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from qprobe.probes import ranks
from qprobe.probes.assignment import Slot
from qprobe.probes.budget import Asked, Budget, Cost
from qprobe.probes.schedule import Every, Schedule


class Agenda:
    """What is due and waits, and what is taken of it.

    Without a budget all that is due is taken. With one the first looks are spread over steps and
    layers: what a probe costs is first tried at two sites, one after the other, then layers are
    taken in their order as far as there is room, frequent probes before rare ones. What has been
    looked at before is looked at together, when there is room for all of it. What there is no room
    for waits; it is tried again at the next steps of the shortest interval, and at each of the
    first 20.
    """

    def __init__(
        self, slots: Sequence[Slot], schedules: Mapping[str, Schedule], limit: float | None
    ) -> None:
        self._slots = tuple(slots)
        self._schedules = schedules
        sites = Counter(slot.probe.name for slot in slots)
        asked = {name: Asked(_interval(schedules[name]), count) for name, count in sites.items()}
        self.budget = Budget(limit, asked)
        regular = [one for one in schedules.values() if isinstance(one, Every)]
        self._grid = min(regular, key=lambda one: one.interval, default=None)
        often = sorted(asked, key=lambda name: asked[name].interval or 0)
        #: The number under which each probe's time is counted, frequent ones first.
        self._accounts = {name: number for number, name in enumerate(often, start=1)}
        #: What is due and not looked at yet.
        self.waiting: dict[Slot, int] = {}
        #: How often each slot was looked at.
        self.looked: dict[Slot, int] = {}
        #: How often nothing was left to wait after a look.
        self.rounds = 0
        # How often each probe was due: layers come in turn however intervals are stretched.
        self._turns: Counter[str] = Counter()

    @property
    def unseen(self) -> tuple[Slot, ...]:
        """What was due and was never looked at, since there was no room for it."""
        return tuple(slot for slot in self.waiting if slot not in self.looked)

    def state_dict(self) -> dict[str, Any]:
        """Plain data; what is known of each slot is kept apart."""
        return {
            "rounds": self.rounds,
            "turns": dict(self._turns),
            "budget": self.budget.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up, with nothing waiting."""
        self.rounds = int(state["rounds"])
        self._turns = Counter(state["turns"])
        self.budget.load_state_dict(state["budget"])
        self.waiting.clear()

    def account(self, slot: Slot) -> int:
        """The number under which its time is counted."""
        return self._accounts[slot.probe.name]

    def interval(self, slots: Iterable[Slot]) -> int:
        """The shortest interval asked for, of these."""
        return min(_interval(self._schedules[slot.probe.name]) or 1 for slot in slots)

    def everything(self) -> tuple[Slot, ...]:
        """All slots, room or not; nothing waits then."""
        self.waiting.clear()
        return self._slots

    def due(self, step: int) -> tuple[Slot, ...]:
        """What to look at in ``step``."""
        fresh = self._collect(step)
        if not self.waiting:
            return ()
        taken: Sequence[Slot] = tuple(self.waiting)
        if self.budget.limit is not None:
            again = self.budget.early or (self._grid is not None and self._grid.due(step))
            if not fresh and not again:
                return ()
            parts = self._parts()
            count = ranks.agree(step, -float(self._room_for(parts)))
            taken = [slot for part in parts[: int(-count)] for slot in part]
        for slot in taken:
            del self.waiting[slot]
        return tuple(taken)

    def paid(self, slots: Iterable[Slot], spent: Mapping[int, float], flushing: float) -> None:
        """A look took so long: by account, and for all of them together."""
        counts = Counter(slot.probe.name for slot in slots)
        each = flushing / max(1, counts.total())
        self.budget.look(
            {
                name: Cost(spent.get(self._accounts[name], 0.0) + each * count, count)
                for name, count in counts.items()
            }
        )
        for slot in slots:
            self.looked[slot] = self.looked.get(slot, 0) + 1
        self.rounds += not self.waiting

    def _collect(self, step: int) -> bool:
        """Let what is due at ``step`` wait; whether there is any."""
        stretch, before = self.budget.stretch, len(self.waiting)
        for slot in [one for one in self.waiting if self._over(one, step)]:
            del self.waiting[slot]
        names = {name for name, one in self._schedules.items() if one.due(step, stretch)}
        for slot in self._slots if names else ():
            name = slot.probe.name
            if name in names and self._schedules[name].takes(slot.layer, self._turns[name]):
                self.waiting.setdefault(slot, step)
        self._turns.update(names)
        return len(self.waiting) > before

    def _over(self, slot: Slot, step: int) -> bool:
        schedule = self._schedules[slot.probe.name]
        return isinstance(schedule, Every) and schedule.last is not None and schedule.last < step

    def _parts(self) -> list[list[Slot]]:
        """What waits, in parts that are looked at whole, in their order; the same in all processes.

        What has been looked at before comes last, together.
        """
        seen = [slot for slot in self.waiting if slot in self.looked]
        unseen = [slot for slot in self.waiting if slot not in self.looked]
        return [*self._spread(unseen), *([seen] if seen else [])]

    def _spread(self, unseen: Sequence[Slot]) -> Iterator[list[Slot]]:
        """Frequent probes first: one site of each that is not known well, then layer by layer."""
        by_interval: dict[int, list[Slot]] = {}
        for slot in unseen:
            by_interval.setdefault(self.interval([slot]), []).append(slot)
        for _, slots in sorted(by_interval.items()):
            tried: dict[str, list[Slot]] = {}
            for slot in slots:
                if not self.budget.knows(slot.probe.name):
                    tried.setdefault(slot.probe.name, []).append(slot)
            samples = [ones[len(ones) // 2] for ones in tried.values()]
            if samples:
                yield samples
            layers: dict[int, list[Slot]] = {}
            for slot in slots:
                if slot not in samples:
                    layers.setdefault(slot.layer, []).append(slot)
            yield from layers.values()

    def _room_for(self, parts: Sequence[Sequence[Slot]]) -> int:
        """How many of the parts there is room for; what is not known well is tried alone."""
        budget, total = self.budget, 0.0
        for number, part in enumerate(parts):
            counts = _tally(part)
            fresh = any(slot not in self.looked for slot in part)
            if fresh and not all(budget.knows(name) for name in counts):
                return 1 if number == 0 and budget.balance_s >= 0.0 else number
            total += budget.expected(counts) or 0.0
            if total > budget.room_s * (1 + 1e-9):
                return number
        return len(parts)


def _interval(schedule: Schedule) -> int | None:
    return schedule.interval if isinstance(schedule, Every) else None


def _tally(slots: Iterable[Slot]) -> dict[str, int]:
    return dict(Counter(slot.probe.name for slot in slots))
