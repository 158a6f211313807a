"""Everything an evaluation keeps of each image, and the scores that follow from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qprobe.engine.metrics.overlap import dice, f2, iou, overlap_counts, recall
from qprobe.engine.metrics.prediction import logit_histograms
from qprobe.engine.metrics.surface import surface_dice
from qprobe.errors import InputError
from qprobe.inference.precision_recall import Masked, average_precision_of_histograms

_OVERLAP: dict[str, Callable[[NDArray[np.int64]], Masked]] = {
    "dice": dice,
    "iou": iou,
    "recall": recall,
    "f2": f2,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleStatistics:
    """One row per image; rows of several batches go together with :meth:`joined`."""

    counts: NDArray[np.int64]
    """TP, FP and FN: ``[n, 3]``."""
    histograms: NDArray[np.int64]
    """Logit histograms of background and foreground: ``[n, 2, bins]``."""
    surface: NDArray[np.float64]
    """Surface Dice: ``[n]``."""

    def __len__(self) -> int:
        return len(self.counts)

    @staticmethod
    def joined(parts: Sequence["SampleStatistics"]) -> "SampleStatistics":
        """The rows of all parts, in their order."""
        if not parts:
            raise InputError("there is nothing to join: no batch was evaluated.")
        return SampleStatistics(
            counts=np.concatenate([part.counts for part in parts]),
            histograms=np.concatenate([part.histograms for part in parts]),
            surface=np.concatenate([part.surface for part in parts]),
        )

    def per_sample(self) -> dict[str, list[float | None]]:
        """Each score of each image; None where it is undefined (no foreground to recall)."""
        scores = {name: score(self.counts).tolist() for name, score in _OVERLAP.items()}
        scores["surface_dice"] = self.surface.tolist()
        scores["auprc"] = average_precision_of_histograms(self.histograms).tolist()
        return scores

    def pooled(self) -> dict[str, float | None]:
        """Each score of all images as if they were one; surface Dice is the mean over images."""
        total = self.counts.sum(0)
        scores = {name: score(total).tolist() for name, score in _OVERLAP.items()}
        scores["surface_dice"] = float(self.surface.mean()) if len(self) else None
        scores["auprc"] = average_precision_of_histograms(self.histograms.sum(0)).tolist()
        return scores


def sample_statistics(
    logits: Tensor,
    target: Tensor,
    *,
    tolerance: float = 1.0,
    spacing: Sequence[float] | None = None,
) -> SampleStatistics:
    """The statistics of a batch ``[B, 1, ...]`` of one class, at probability 0.5.

    ``tolerance`` and ``spacing`` are those of :func:`surface_dice`. Of several classes pass one
    channel at a time.
    """
    if logits.ndim < 3 or logits.shape[1] != 1:
        raise InputError(
            f"statistics are of one class at a time, [batch, 1, ...], got {tuple(logits.shape)}; "
            "slice a channel of logits and target."
        )
    logits, target = logits.detach(), target.detach()
    counts, histograms = overlap_counts(logits, target), logit_histograms(logits, target)
    found, there = (logits[:, 0] > 0).cpu().numpy(), (target[:, 0] > 0.5).cpu().numpy()
    surface = [
        surface_dice(one, other, tolerance, spacing)
        for one, other in zip(found, there, strict=True)
    ]
    return SampleStatistics(
        counts=counts.cpu().numpy(),
        histograms=histograms.cpu().numpy(),
        surface=np.array(surface, dtype=np.float64),
    )
