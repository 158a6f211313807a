"""What several processes of one training saw, brought together on the first of them."""

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import torch.distributed as dist

from qprobe.errors import InputError
from qprobe.probes.packing import Packed

K = TypeVar("K", bound=Hashable)
S = TypeVar("S")


def rank() -> int:
    """The number of this process, 0 where there is only one."""
    return dist.get_rank() if _several() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _several() else 1


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def agree(step: int, value: float) -> float:
    """The largest ``value`` of all processes, which must be at the same step."""
    if size() == 1:
        return value
    said: list[Any] = [None] * size()
    dist.all_gather_object(said, (step, value))
    steps = [one[0] for one in said]
    if len(set(steps)) > 1:
        raise InputError(
            f"the sessions of {size()} processes are at steps {steps}; call step() in all of them "
            "after each optimizer step, also where a process had no batch."
        )
    return float(max(one[1] for one in said))


def gather(packed: Packed) -> list[Any] | None:
    """What all processes packed, in their order; None on all but the first."""
    mine = packed.to_host()
    payload = mine.skeleton, mine.data.numpy().tobytes()
    received: list[Any] | None = [None] * size() if rank() == 0 else None
    dist.gather_object(payload, received, dst=0)
    if received is None:
        return None
    return [Packed.from_bytes(*one).unpack() for one in received]


def merge(into: dict[K, S], other: Mapping[K, S]) -> None:
    """Add the states of another process; either may have some that the other lacks."""
    for key, state in other.items():
        known: Any = into.get(key)
        into[key] = state if known is None else known.merge(state)
