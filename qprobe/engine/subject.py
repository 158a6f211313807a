"""A checkpoint of the engine as the subject of an analysis: its model, its validation data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from qprobe.analyzers.base import Subject
from qprobe.engine.data import Batch
from qprobe.engine.evaluation import targets
from qprobe.engine.losses import bce_tversky_per_image
from qprobe.engine.metrics.prediction import BINS_A_LOGIT, logit_bins, logit_histograms
from qprobe.engine.workbench import Workbench
from qprobe.inference import average_precision_of_histograms, average_precision_slopes
from qprobe.quant import convert
from qprobe.quant.catalogue import recipe as named


@dataclass(frozen=True)
class PooledAuprc:
    """Average precision of all pixels as if they were of one image: the mean over classes."""

    name: str = "auprc"

    def of(self, output: Tensor, batch: Batch) -> NDArray[np.float64]:
        """Logit histograms of every class, background left out: ``[samples, classes, 2, bins]``."""
        logits, target = _judged(output.detach(), batch)
        found = [logit_histograms(logits[:, c], target[:, c]) for c in range(logits.shape[1])]
        return torch.stack(found, dim=1).cpu().numpy().astype(np.float64)

    def reduce(self, totals: NDArray[np.float64]) -> ArrayLike:
        """The mean over the classes that have a positive, masked where none has."""
        mean: ArrayLike = average_precision_of_histograms(totals).mean(-1)
        return mean

    def gains(self, output: Tensor, batch: Batch, totals: NDArray[np.float64]) -> Tensor:
        """Every logit times what average precision gains for it, the mean over the classes."""
        logits, target = _judged(output, batch)
        found = average_precision_slopes(totals) * BINS_A_LOGIT  # [classes, 2, bins]
        found /= max(1, int((totals[:, 1].sum(-1) > 0).sum()))
        slopes = torch.from_numpy(found).to(logits)
        of_class = torch.arange(logits.shape[1], device=logits.device)
        of_class = of_class.view(-1, *[1] * (logits.dim() - 2))
        slope = slopes[of_class, (target > 0.5).long(), logit_bins(logits.detach())]
        return (slope * logits).flatten(1).sum(1)


def _judged(output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and targets ``[samples, classes, ...]`` in float32, background left out."""
    logits = output.float()
    target = targets(logits, batch.mask.to(logits.device))
    first = 1 if logits.shape[1] > 1 else 0
    return logits[:, first:], target[:, first:]


def subject_of(
    bench: Workbench,
    *,
    recipe: str | None = None,
    layers: str | None = None,
    batches: int | None = None,
) -> Subject:
    """The model of a training, judged on its validation data: never on what it is tested with.

    Without ``recipe`` it is judged under the recipe it was trained with. ``batches`` takes only
    the first few. What the analysis runs is float32, whatever the training was computed in.
    """
    chosen = recipe or bench.config.recipe
    convert(bench.model, chosen, layers or bench.config.layers, bench.generator)  # type: ignore[arg-type]
    bench.model.eval()

    def validation() -> Iterator[Batch]:
        bench.validation.restart(0)
        for number, batch in enumerate(bench.validation):
            if batches is not None and number == batches:
                return
            yield replace(batch, image=batch.image.to(bench.device))

    return Subject(
        model=bench.model,
        recipe=named(chosen),
        batches=validation,
        loss=_losses,
        score=PooledAuprc(),
        forward=_forward,
        groups=_patients,
        some=_some,
        name=f"{bench.config.arch} {bench.config.size}",
    )


def _forward(model: nn.Module, batch: Any) -> Tensor:
    logits: Tensor = model(batch.image)
    return logits


def _losses(output: Tensor, batch: Batch) -> Tensor:
    logits = output.float()
    return bce_tversky_per_image(logits, targets(logits, batch.mask.to(logits.device)))


def _some(batch: Batch, rows: list[int]) -> Batch:
    return Batch(
        image=batch.image[rows],
        mask=batch.mask[rows],
        patients=tuple(batch.patients[n] for n in rows),
        samples=tuple(batch.samples[n] for n in rows),
    )


def _patients(batch: Batch) -> Sequence[str]:
    return batch.patients
