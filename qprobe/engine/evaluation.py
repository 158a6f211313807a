"""Scores of a model on a set: a loss, per-sample statistics, and what a report shows."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprobe.engine.data import Batch, Loader
from qprobe.engine.losses import bce_tversky, bce_tversky_per_image
from qprobe.engine.metrics import SampleStatistics, sample_statistics
from qprobe.quant.remembering import remembering

#: Samples of which an evaluation keeps image, mask and logits.
SHOWN = 6


@dataclass(kw_only=True, eq=False)
class Evaluation:
    """What one pass over a set gave; scores are ``None`` where they are undefined."""

    loss: float
    #: Statistics by class, background left out; empty where a logit was not finite.
    classes: dict[int, SampleStatistics]
    samples: tuple[str, ...]
    patients: tuple[str, ...]
    #: Image, mask and logits of the first samples.
    shown: list[tuple[str, Tensor, Tensor, Tensor]] = field(default_factory=list)

    def pooled(self) -> dict[str, float | None]:
        """Each score of the whole set: the mean over classes."""
        return _mean([statistics.pooled() for statistics in self.classes.values()])

    def per_sample(self) -> Iterator[tuple[str, str, dict[str, float | None]]]:
        """Sample, patient and scores, in the order of the set."""
        tables = [statistics.per_sample() for statistics in self.classes.values()]
        for row, (sample, patient) in enumerate(zip(self.samples, self.patients, strict=True)):
            scores = [{name: values[row] for name, values in table.items()} for table in tables]
            yield sample, patient, _mean(scores)


def training_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """The loss of a batch; several classes are one logit channel each."""
    return bce_tversky(logits, targets(logits, mask))


def targets(logits: Tensor, mask: Tensor) -> Tensor:
    """The mask with one channel per logit channel: as it is, or one-hot of class numbers."""
    if mask.is_floating_point():
        return mask
    return F.one_hot(mask, logits.shape[1]).movedim(-1, 1).to(logits.dtype)


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader, device: torch.device, show: bool) -> Evaluation:
    """Run the model in evaluation mode over one epoch of ``loader``, from its start."""
    was_training = model.training
    model.eval()
    loader.restart(0)
    losses: list[Tensor] = []
    parts: dict[int, list[SampleStatistics]] = {}
    samples: list[str] = []
    patients: list[str] = []
    shown: list[tuple[str, Tensor, Tensor, Tensor]] = []
    with remembering(model.modules()):
        for batch in loader:
            logits = model(batch.image.to(device)).float()
            target = targets(logits, batch.mask.to(device))
            losses.append(_losses(logits, target).cpu())
            samples += batch.samples
            patients += batch.patients
            for number, statistics in _statistics(logits, target):
                parts.setdefault(number, []).append(statistics)
            if show:
                shown += _shown(batch, logits, SHOWN - len(shown))
    model.train(was_training)
    whole = {number: SampleStatistics.joined(part) for number, part in parts.items()}
    complete = all(len(statistics) == len(samples) for statistics in whole.values())
    return Evaluation(
        loss=float(torch.cat(losses).double().mean()),
        classes=whole if complete else {},
        samples=tuple(samples),
        patients=tuple(patients),
        shown=shown,
    )


def _losses(logits: Tensor, target: Tensor) -> Tensor:
    """The loss of each image, NaN where a logit is not finite: the clamped loss would hide it."""
    finite = logits.flatten(1).isfinite().all(1)
    return bce_tversky_per_image(logits, target).where(finite, torch.nan)


def _statistics(logits: Tensor, target: Tensor) -> Iterator[tuple[int, SampleStatistics]]:
    """Statistics by class; none where a logit is not finite, which the loss shows."""
    if not bool(logits.isfinite().all()):
        return
    first = 1 if logits.shape[1] > 1 else 0
    for channel in range(first, logits.shape[1]):
        one = slice(channel, channel + 1)
        yield max(1, channel), sample_statistics(logits[:, one], target[:, one])


def _shown(batch: Batch, logits: Tensor, count: int) -> list[tuple[str, Tensor, Tensor, Tensor]]:
    rows = range(min(count, len(batch)))
    return [
        (
            batch.samples[row],
            _flat(batch.image[row]),
            _flat(batch.mask[row]),
            _flat(logits[row].cpu()),
        )
        for row in rows
    ]


def _flat(x: Tensor) -> Tensor:
    """The middle slice of a volume; an image as it is."""
    volume = x.dim() > 3 or (x.dim() == 3 and not x.is_floating_point())
    return x.select(-3, x.shape[-3] // 2) if volume else x


def _mean(tables: list[dict[str, float | None]]) -> dict[str, float | None]:
    names = tables[0] if tables else {}
    means: dict[str, float | None] = {}
    for name in names:
        defined = [table[name] for table in tables if table[name] is not None]
        means[name] = float(np.mean(defined)) if defined else None  # type: ignore[arg-type]
    return means
