"""What a session remembers of its probes in a training that is saved and taken up again."""

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from torch import Tensor

from qprobe.errors import InputError
from qprobe.probes.assignment import Slot

_PLAIN = (Tensor, int, float, str, bytes, type(None))


def saved(slots: Iterable[Slot], counts: Mapping[str, Mapping[Slot, int]]) -> dict[str, Any]:
    """Counts of each slot and the memory of its probe, as plain data."""
    return {
        str(slot): {
            "memory": _checked(slot),
            **{name: known[slot] for name, known in counts.items() if slot in known},
        }
        for slot in slots
    }


def restore(
    slots: Iterable[Slot],
    state: Mapping[str, Any],
    counts: Mapping[str, MutableMapping[Slot, int]],
) -> None:
    """Put back what :func:`saved` gave; slots that are new since then start anew."""
    for slot in slots:
        found = state.get(str(slot))
        if found is None:
            continue
        slot.memory.update(found["memory"])
        for name, known in counts.items():
            if name in found:
                known[slot] = found[name]


def _checked(slot: Slot) -> dict[str, Any]:
    strange = _strange(slot.memory)
    if strange is not None:
        raise InputError(
            f"the probe {slot} remembers a {strange}, which a checkpoint cannot hold; let it "
            "remember tensors, numbers, text, and lists and tables of them."
        )
    return slot.memory


def _strange(value: object) -> str | None:
    """The type of the first thing in ``value`` that is no plain data."""
    if type(value) in (dict, list, tuple):
        parts = [*value, *value.values()] if isinstance(value, dict) else list(value)  # type: ignore[call-overload]
        return next((one for one in map(_strange, parts) if one is not None), None)
    return None if isinstance(value, _PLAIN) else type(value).__name__
