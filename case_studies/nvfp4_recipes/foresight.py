"""Can a short, watched run foretell which recipe ends best? Rank correlations with intervals.

For each architecture the seven quantized recipes are ranked twice: by what was seen in the first
200 steps, and by how much worse than bf16 they ended, each the mean over paired seeds. Spearman's ρ
of the two rankings is bootstrapped over seeds; with few seeds its limits are too narrow.
"""

from collections.abc import Mapping

import numpy as np
from number import Number, Stored, present
from numpy.typing import NDArray
from protocol import ARCHITECTURES, BASELINE, QUANTIZED
from quality import scores
from scipy.stats import rankdata

from qprobe.inference import Method, Resampling, bootstrap

Floats = NDArray[np.float64]
#: What was seen, signed so that more of it should mean a worse ending.
PREDICTORS = ("loss", "output_noise", "dw_error", "dx_error", "logit_error_nats")
_FEWEST_SEEDS = 3


def numbers(stored: Stored) -> dict[str, Number]:
    """ρ by architecture, size and predictor, as ``early.swin-tiny.loss``."""
    sizes = sorted({key.split("-")[1] for key in stored.get("early", {})})
    found: dict[str, Number | None] = {}
    for size in sizes:
        for arch in ARCHITECTURES:
            model = f"{arch}-{size}"
            for predictor in PREDICTORS:
                found[f"early.{model}.{predictor}"] = _correlation(stored, model, predictor)
    return present(found)


def rankings(stored: Stored, model: str, predictor: str) -> Floats:
    """``[seeds, 2, recipes]``: what was seen, and the test loss above that of bf16 in the end."""
    ends = scores(stored, "grid", model, "loss")
    rows = []
    for pair in sorted(ends.get(BASELINE, {})):
        seen = [_seen(stored, f"{model}-{recipe}-{pair}", predictor) for recipe in QUANTIZED]
        ended = [ends.get(recipe, {}).get(pair) for recipe in QUANTIZED]
        base = _seen(stored, f"{model}-{BASELINE}-{pair}", "loss")
        if None in seen or None in ended or base is None:
            continue
        shift = base if predictor == "loss" else 0.0
        first = [value - shift for value in seen if value is not None]
        second = [value - ends[BASELINE][pair] for value in ended if value is not None]
        rows.append([first, second])
    return np.array(rows, dtype=np.float64).reshape(len(rows), 2, len(QUANTIZED))


def _seen(stored: Stored, key: str, predictor: str) -> float | None:
    values = stored.get("early", {}).get(key)
    if values is None:
        return None
    if predictor == "loss":
        return float(values["loss"])
    if predictor in ("dw_error", "dx_error"):
        return _error(values, predictor.replace("error", "cosine"))
    found = values.get(predictor)
    return None if found is None else float(found["median"])


def _error(values: Mapping[str, Mapping[str, float]], cosine: str) -> float | None:
    """1 − cosine; a product that the recipe leaves in high precision has no error at all."""
    if "output_noise" not in values:  # nothing was seen of this recipe
        return None
    return 1.0 - values[cosine]["median"] if cosine in values else 0.0


def _correlation(stored: Stored, model: str, predictor: str) -> Number | None:
    rows = rankings(stored, model, predictor)
    if len(rows) < _FEWEST_SEEDS or np.ptp(rows[:, 0].sum(0)) == 0:
        return None
    resampling = Resampling(generator=np.random.default_rng(0), method=Method.PERCENTILE)
    return Number.of(bootstrap(rows, spearman, resampling))


def spearman(totals: Floats) -> Floats:
    """ρ of ``[draws, 2, items]``; ranks of a sum are those of a mean, so no division is needed.

    >>> spearman(np.array([[[1.0, 2.0, 3.0], [10.0, 30.0, 20.0]]])).tolist()
    [0.5]
    """
    ranks = rankdata(totals, axis=-1)
    centred = ranks - ranks.mean(-1, keepdims=True)
    products = (centred[:, 0] * centred[:, 1]).sum(-1)
    sizes = np.sqrt((centred**2).sum(-1).prod(-1))
    return np.where(sizes > 0, np.round(products / np.where(sizes > 0, sizes, 1.0), 12), 0.0)
