"""What a dequantization analysis is asked to do."""

from dataclasses import dataclass, replace
from enum import StrEnum

from qprobe.errors import InputError


class Mode(StrEnum):
    """How many layers are measured."""

    SCREEN = "screen"
    """None: all are screened to first order."""
    RACE = "race"
    """The most promising, until the best are found or the budget is used up."""
    EXHAUSTIVE = "exhaustive"
    """All."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look for and how much to spend."""

    mode: Mode = Mode.RACE
    #: How many layers are to be named.
    top: int = 5
    #: Passes a layer that base, screen and race together may take; more lots are started only
    #: within it.
    budget: float = 0.25
    #: Share of the samples that are screened, from all over the batches; three times as many where
    #: these cannot be divided, half as many where the score tells no slope and the loss is taken.
    screened: float = 1 / 6
    #: Whether the operands of the best layers are put back one at a time.
    operands: bool = True
    #: Random layers that are measured to learn how far the screen can be trusted; 0 for none.
    agreement: int = 8
    #: Most layers of the cumulative set; 0 for none.
    cumulative: int = 5
    #: Whether the best layers are also quantized alone.
    sensitivity: bool = True
    #: Layers whose pairs are measured; 0 for none.
    pairs: int = 0
    #: Batches on which the products of the backward pass are judged; 0 for none.
    gradients: int = 4
    #: Draws over which a stochastic rounding is averaged.
    draws: int = 8
    #: Seed of what is chosen at random.
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"top is a number of layers >= 1, got {self.top}.")
        if not 0.0 < self.screened <= 1.0:
            raise InputError(f"screened is a share of the samples in (0, 1], got {self.screened}.")
        for name in ("agreement", "cumulative", "pairs", "gradients"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is a number >= 0, got {getattr(self, name)}.")
        if self.draws < 2:
            raise InputError(f"draws is at least 2, for a spread; got {self.draws}.")


QUICK = Search(mode=Mode.SCREEN, operands=False, agreement=0, cumulative=0, sensitivity=False)
#: Screens as much as :data:`QUICK`, whose order is then held against the truth.
EXHAUSTIVE = Search(mode=Mode.EXHAUSTIVE, agreement=0)
THOROUGH = replace(EXHAUSTIVE, cumulative=8, pairs=8)
