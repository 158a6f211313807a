"""What a kind of defect is: where it fits, and what it does to a model there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.quant.layers import QuantizedLayer
from qprobe.records.schema import Cause, Role

#: Arguments of one call of the model, for kinds that have to see what the model computes.
Example = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one defect goes, and how strong it is."""

    model: nn.Module
    #: A path that the kind's ``fits`` gave for this model.
    path: str
    strength: float
    #: Where every random choice of the defect comes from.
    generator: torch.Generator
    example: Example = ()

    def drawn(self, count: int) -> int:
        """A number below ``count``."""
        return int(torch.randint(count, (), generator=self.generator))

    def signs(self, count: int) -> Tensor:
        """``count`` numbers that are 1 or −1."""
        return 2.0 * torch.randint(0, 2, (count,), generator=self.generator) - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What a defect left in the model, and how to take it away."""

    #: Taken away in reverse order.
    undo: Sequence[Callable[[], None]]
    roles: tuple[Role, ...]
    #: Other paths that name the same place, such as the attention that a projection belongs to.
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of defect, or of change that is none (``cause=None``)."""

    name: str
    cause: Cause | None
    #: One sentence for people.
    summary: str
    #: Weak, middling and strong, in the unit that ``summary`` says.
    strengths: tuple[float, float, float]
    fits: Callable[[nn.Module, Example], list[str]]
    make: Callable[[Place], Traces]
    #: Whether the function in high precision stays as it was.
    preserves: bool
    #: Whether only gradients see it.
    gradient: bool = False

    @property
    def benign(self) -> bool:
        """Whether it is a change that a diagnosis must not complain about."""
        return self.cause is None


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """Layers whose forward product is quantized and whose weight is theirs alone, by path."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():  # noqa: SLF001  (not of children)
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, QuantizedLayer)
        and module.recipe.fprop.quantizes
        and owners.get(id(module._parameters.get("weight"))) == 1  # noqa: SLF001
    }


def layer_of(place: Place) -> QuantizedLayer:
    """The quantized layer at a place."""
    return quantized_layers(place.model)[place.path]


def more_than_one(place: Place, unit: str) -> None:
    """Strengths that are factors start at 1, where nothing changes."""
    if not place.strength >= 1.0:
        raise InputError(f"the strength is a {unit} from 1 on, got {place.strength}.")


def a_share(place: Place, unit: str) -> None:
    """Strengths that are shares lie between 0 and 1."""
    if not 0.0 <= place.strength <= 1.0:
        raise InputError(f"the strength is the {unit}, between 0 and 1; got {place.strength}.")
