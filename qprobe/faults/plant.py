"""Plant a defect, know where it is, and take it out again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
from torch import nn

from qprobe.errors import InputError
from qprobe.faults.catalogue import kind as named
from qprobe.faults.fault import Example, Kind, Place
from qprobe.records.schema import Cause, Role


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planted:
    """The truth about one planted defect, and the way back; also a context manager."""

    kind: Kind
    site: str
    strength: float
    seed: int
    roles: tuple[Role, ...]
    #: All paths by which a diagnosis may name the place, the site itself first.
    sites: tuple[str, ...]
    _undo: list[Callable[[], None]] = field(default_factory=list, repr=False)

    @property
    def cause(self) -> Cause | None:
        """What a diagnosis should say; None for a change that is no defect."""
        return self.kind.cause

    def undo(self) -> None:
        """Leave the model as it was found, to the bit; the second time this does nothing."""
        while self._undo:
            self._undo[-1]()
            self._undo.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.undo()


def candidates(model: nn.Module, kind: str, example: Example = ()) -> list[str]:
    """The sites of a model under a recipe where a kind of defect can be planted.

    ``example`` holds the arguments of one call; only kinds that concern fusions run the model.

    >>> from qprobe.quant import convert
    >>> model = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 8))
    >>> print(convert(model, "nvfp4").converted)
    ('1',)
    >>> candidates(model, "channel-outlier"), candidates(model, "logit-growth")
    (['1'], [])
    """
    return named(kind).fits(model, example)


def plant(  # noqa: PLR0913 - what, where, how strong, and two defaults
    model: nn.Module,
    kind: str,
    site: str,
    *,
    strength: float | None = None,
    seed: int = 0,
    example: Example = (),
) -> Planted:
    """Plant one defect at ``site``; the same seed plants the same one again.

    ``strength`` has the unit that the kind's summary says and is its middle one if not given. The
    model is changed in place: its parameters stay the same objects, and what the defect adds comes
    before the hooks of others, so that they see its tensors as if the model had made them.
    """
    chosen = named(kind)
    _refuse_elsewhere(chosen, site, candidates(model, kind, example))
    place = Place(
        model=model,
        path=site,
        strength=chosen.strengths[1] if strength is None else float(strength),
        generator=torch.Generator().manual_seed(seed),
        example=example,
    )
    traces = chosen.make(place)
    return Planted(
        kind=chosen,
        site=site,
        strength=place.strength,
        seed=seed,
        roles=traces.roles,
        sites=tuple(dict.fromkeys((site, *traces.also))),
        _undo=list(traces.undo),
    )


def _refuse_elsewhere(kind: Kind, site: str, fitting: Sequence[str]) -> None:
    if site in fitting:
        return
    shown = ", ".join(fitting[:8]) + (f" and {len(fitting) - 8} more" if len(fitting) > 8 else "")
    where = f"it fits at {shown}" if fitting else "it fits nowhere in this model under its recipe"
    raise InputError(f"{kind.name} cannot be planted at {site!r}; {where}.")
