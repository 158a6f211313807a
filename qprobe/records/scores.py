"""By which scores a training is judged."""

import math
from collections.abc import Sequence

from qprobe.records.schema import Metric

#: The validation score that chooses the weights which a run is judged by.
CHOOSES = "auprc"


def scores(metrics: Sequence[Metric]) -> dict[str, dict[str, float]]:
    """``scores[split][name]`` from metrics by step, as a reader returns them.

    Of ``test`` the last values written; of ``validation`` those of the epoch with the highest
    AUPRC, the first of equals, whose weights the test scores are of (where AUPRC was not measured:
    of the last epoch).

    >>> each = [Metric(step=s, split="validation", name="auprc", value=v)
    ...         for s, v in enumerate([0.5, 0.7, 0.6])]
    >>> scores(each)
    {'test': {}, 'validation': {'auprc': 0.7}}
    """
    return {
        "test": _last([one for one in metrics if one.split == "test"]),
        "validation": _best([one for one in metrics if one.split == "validation"]),
    }


def _last(metrics: Sequence[Metric]) -> dict[str, float]:
    return {one.name: one.value for one in metrics}  # they come by step


def _best(metrics: Sequence[Metric]) -> dict[str, float]:
    choosing = [one for one in metrics if one.name == CHOOSES and not math.isnan(one.value)]
    if not choosing:
        return _last(metrics)
    chosen = max(choosing, key=lambda one: (one.value, -one.step))
    return {one.name: one.value for one in metrics if one.step == chosen.step}
