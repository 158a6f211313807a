"""The answer: which layers stay in high precision, and what that is predicted to give."""

from dataclasses import dataclass, replace
from typing import Self

from qprobe.errors import InputError
from qprobe.inference.interval import Interval
from qprobe.plan.evidence import Layer
from qprobe.plan.goal import Goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Layers in high precision and layers under the recipe; together all that were quantized."""

    recipe: str
    goal: Goal
    #: In high precision, the one that gives most back first.
    kept: tuple[Layer, ...]
    #: Under the recipe, in the order of the model.
    quantized: tuple[Layer, ...]
    #: Scores in high precision and with every layer quantized; None where not measured.
    score_fp: float | None
    score_q: float | None
    #: Score if recoveries add up; None where they were not measured (screening only).
    predicted: Interval | None
    #: Score that was measured with exactly these layers in high precision; None: not yet.
    measured: Interval | None = None
    #: What a reader has to know before relying on it.
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        both = {layer.path for layer in self.kept} & {layer.path for layer in self.quantized}
        if both:
            raise InputError(f"{min(both)} is both in high precision and quantized.")

    @property
    def summary(self) -> str:
        """How many layers it keeps, for the head of a file."""
        return f"high precision: {len(self.kept)} of {len(self.kept) + len(self.quantized)} layers"

    @property
    def parameters(self) -> int:
        """Elements of the weights of all layers."""
        return sum(layer.parameters for layer in (*self.kept, *self.quantized))

    @property
    def kept_parameters(self) -> int:
        """Elements of the weights that stay in high precision."""
        return sum(layer.parameters for layer in self.kept)

    @property
    def kept_share(self) -> float:
        """Share of the parameters in high precision; 0 where no layer has any."""
        return self.kept_parameters / self.parameters if self.parameters else 0.0

    def with_measured(self, score: Interval) -> Self:
        """The same plan with the score that it turned out to have."""
        return replace(self, measured=score)
