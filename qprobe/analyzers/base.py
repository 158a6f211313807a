"""What is analyzed, and what an analyzer is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from qprobe.checkpoints import Checkpoint
from qprobe.errors import InputError
from qprobe.quant.recipe import QuantRecipe
from qprobe.records.schema import Array, Finding, Record
from qprobe.registry import Registry

Floats = NDArray[np.float64]


@runtime_checkable
class Score(Protocol):
    """How good a model is: greater is better, from sums over samples.

    A score of a whole set is no mean of scores of samples (a pooled average precision), so samples
    give statistics that add up, as :func:`qprobe.inference.bootstrap` takes them.
    """

    @property
    def name(self) -> str:
        """What it is called in records, such as ``auprc``."""

    def of(self, output: Tensor, batch: Any) -> Floats:
        """Statistics ``[samples, ...]`` of one batch."""

    def reduce(self, totals: Floats) -> ArrayLike:
        """Scores ``[draws]`` of sums ``[draws, ...]``, masked where undefined."""


@runtime_checkable
class SlopedScore(Score, Protocol):
    """A score that tells what a small change of outputs does to it.

    A search for the layers that cost most screens them with it, far better than with the loss.
    """

    def gains(self, output: Tensor, batch: Any, totals: Floats) -> Tensor:
        """One number a sample ``[samples]``, differentiable.

        Added up over a set of samples whose statistics add up to ``totals`` they have the score's
        own derivative by the outputs, or that of something smooth near it.
        """


class Continuation(Protocol):
    """A training that can be gone on with from the weights under analysis.

    A generator function does, such as::

        def continuation(model, steps):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
            for x, y in batches_in_one_order():
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                yield loss.item()
    """

    def __call__(self, model: nn.Module, steps: int) -> Iterator[float]:
        """Take ``steps`` optimizer steps with ``model`` as it stands; yield the loss of each.

        Every call begins anew: the same batches of training data in the same order, the optimizer
        in the same state. The model comes in training mode with the weights to begin with, and
        PyTorch's random numbers are seeded; other random numbers are not.
        """


def first_item(model: nn.Module, batch: Any) -> Tensor:
    """What the model gives for the first item of a batch."""
    output: Tensor = model(batch[0])
    return output


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """The thing under analysis: a model under its recipe, and how to judge it.

    ``model`` is converted: its quantized layers are those that the recipe chose, and putting one
    back to high precision is :func:`qprobe.quant.override`. Analyzers leave it as they found it.
    """

    model: nn.Module
    recipe: QuantRecipe
    #: The same batches every time it is called, of data that was not tested on.
    batches: Callable[[], Iterable[Any]]
    #: Losses ``[samples]`` of an output, from the output and its batch.
    loss: Callable[[Tensor, Any], Tensor]
    score: Score
    #: Runs a model on a batch; by default on the batch's first item.
    forward: Callable[[nn.Module, Any], Tensor] = first_item
    #: Who each sample of a batch belongs to, such as a patient; None: each to itself.
    groups: Callable[[Any], Sequence[str]] | None = None
    #: A batch of some samples of one, by their numbers in it; None: batches are only used whole.
    some: Callable[[Any, list[int]], Any] | None = None
    #: Goes on with the training, for remedies that only a training can verify; None: there is none.
    continuation: Continuation | None = None
    #: What it is called in reports.
    name: str = "model"


@runtime_checkable
class Analyzer(Protocol):
    """A question, answered from records alone: recomputed from a file, tested with literals."""

    @property
    def name(self) -> str:
        """What its findings are filed under."""

    @property
    def reads(self) -> frozenset[str]:
        """The probes whose records it needs; its own measurements carry its own name."""

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """What the records say; an empty list says that nothing was found."""


@runtime_checkable
class ActiveAnalyzer(Analyzer, Protocol):
    """An analyzer that runs the model first."""

    def measure(self, subject: Subject) -> Iterator[Record | Array]:
        """Measure, leaving the model as it was; what is yielded goes into the file as it comes."""


@runtime_checkable
class CheckpointAnalyzer(Analyzer, Protocol):
    """An analyzer that measures the stored weights, for which no model has to be built."""

    def measure_checkpoint(self, checkpoint: Checkpoint) -> Iterator[Record | Array]:
        """Measure in memory bounded by one weight; what is yielded goes into the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The score of one finished training, greater is better."""

    #: What it has in common with those that it is compared with, in words.
    group: str
    recipe: str
    seed: int
    fold: int | None
    metric: str
    score: float


@runtime_checkable
class TrainingsAnalyzer(Analyzer, Protocol):
    """An analyzer that compares finished trainings, of which it needs no model."""

    def measure_trainings(self, trainings: Sequence[Trained]) -> Iterator[Record]:
        """What the trainings reached, as records."""


def _checked(name: str, obj: object) -> Analyzer:
    made = obj() if isinstance(obj, type) else obj
    if not isinstance(made, Analyzer):
        raise InputError(
            f"the analyzer {name!r} is a {type(made).__name__} without name, reads and analyze."
        )
    if made.name != name:
        raise InputError(
            f"the analyzer registered as {name!r} calls itself {made.name!r}; make them equal."
        )
    return made


#: Analyzers by name: built-in ones and those of installed distributions.
ANALYZERS: Registry[Analyzer] = Registry("qprobe.analyzers", "analyzer", _checked)
