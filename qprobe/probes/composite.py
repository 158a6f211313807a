"""A state made of several."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from qprobe.stats import Additive


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite:
    """A state whose fields are states that add, or None where one saw nothing."""

    def merge(self, other: Self) -> Self:
        """What both saw, part by part."""
        return type(self)(
            **{
                field.name: _merged(getattr(self, field.name), getattr(other, field.name))
                for field in fields(self)
            }
        )

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(
            **{k: None if part is None else part.to(device) for k, part in parts.items()}
        )

    def arrays(self) -> dict[str, Tensor]:
        """None, unless a state says otherwise."""
        return {}


def _merged(one: Additive | None, other: Additive | None) -> Additive | None:
    if one is None or other is None:
        return other if one is None else one
    return one.merge(other)
