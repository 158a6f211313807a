"""What an evaluation leaves in the run file: scores, per-sample scores, histograms, examples."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qprobe.engine.evaluation import Evaluation
from qprobe.records import Array, Metric, RunWriter, Sample
from qprobe.records.schema import ARRAY_BYTES

#: Samples in one array of histograms: 64 × 2 × 1,024 int32 are half of what an array may hold.
_ROWS = 64


def validation_metrics(evaluation: Evaluation, step: int, epoch: int) -> Iterator[Metric]:
    """The scores of a validation."""
    return _metrics(evaluation, "validation", step, epoch)


def test_results(
    writer: RunWriter, evaluation: Evaluation, step: int, epoch: int
) -> dict[str, float]:
    """Write everything about a test, unflushed, and return its scores."""
    metrics = list(_metrics(evaluation, "test", step, epoch))
    writer.metrics(metrics)
    for sample, patient, scores in evaluation.per_sample():
        writer.samples(_samples(sample, patient, scores, step, epoch))
    writer.arrays(_histograms(evaluation, step))
    writer.arrays(_examples(evaluation, step))
    return {metric.name: metric.value for metric in metrics}


def _metrics(evaluation: Evaluation, split: str, step: int, epoch: int) -> Iterator[Metric]:
    scores = {"loss": evaluation.loss, **evaluation.pooled()}
    for name, value in scores.items():
        if value is not None:
            yield Metric(step=step, epoch=epoch, split=split, name=name, value=value)


def _samples(
    sample: str, patient: str, scores: Mapping[str, float | None], step: int, epoch: int
) -> Iterator[Sample]:
    for name, value in scores.items():
        if value is not None:
            yield Sample(
                step=step, epoch=epoch, split="test", sample=sample, patient=patient,
                name=name, value=value,
            )  # fmt: skip


def _histograms(evaluation: Evaluation, step: int) -> Iterator[Array]:
    """Logit histograms ``[samples, background and foreground, bins]`` in the order of the set."""
    several = len(evaluation.classes) > 1
    for number, statistics in evaluation.classes.items():
        prefix = f"histograms.test.class{number}" if several else "histograms.test"
        for first in range(0, len(statistics), _ROWS):
            rows = statistics.histograms[first : first + _ROWS].astype(np.int32)
            yield _array(step, "predictions", f"{prefix}.{first}", rows)


def _examples(evaluation: Evaluation, step: int) -> Iterator[Array]:
    """Image, mask and logits of the first samples, as the model saw and gave them."""
    for sample, image, mask, logits in evaluation.shown:
        kinds: dict[str, NDArray[Any]] = {
            "image": image.half().numpy(),
            "mask": mask.numpy().astype(np.uint8),
            "logits": logits.half().numpy(),
        }
        for kind, values in kinds.items():
            yield _array(step, "examples", f"{sample}.{kind}", _thinned(values))


def _thinned(values: NDArray[Any]) -> NDArray[Any]:
    """Every pixel, or every second, third, ... of a row and column, so that an array takes it."""
    stride = 1
    while values[..., ::stride, ::stride].nbytes > ARRAY_BYTES:
        stride += 1
    return values[..., ::stride, ::stride]


def _array(step: int, probe: str, key: str, values: NDArray[Any]) -> Array:
    return Array(step=step, site="", role="", probe=probe, key=key, data=values)
