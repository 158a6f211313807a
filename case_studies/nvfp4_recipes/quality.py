"""What recipes do to the score of a model: paired ratios and differences with intervals.

The score is AUPRC on the test set; normalised, it is divided by that of the bf16 run with the same
seed or fold (the paper's Figure 6).
"""

from collections.abc import Mapping, Sequence
from itertools import product

from number import Number, Stored, mean, present
from protocol import ARCHITECTURES, BASELINE, QUANTIZED

from qprobe.inference import holm, wilcoxon

#: Scores by recipe and by what a pair has in common: a seed or a fold.
Scores = Mapping[str, Mapping[str, float]]

#: Recipes that quantize the gradient that comes from above.
OF_GRADIENTS = ("nvfp4", "nvfp4-sr", "nvfp4-2d-rht", "nvfp4-2d-rht-sr")
#: Chance of an error in a family of seven recipes as in one number.
FAMILY_LEVEL = 1 - 0.05 / len(QUANTIZED)
AUPRC = " AUPRC"


def scores(stored: Stored, stage: str, model: str, metric: str = "auprc") -> Scores:
    """Test scores of a model, called like ``cnn-tiny``, from keys like ``cnn-tiny-bf16-s0``."""
    found: dict[str, dict[str, float]] = {}
    for key, values in stored.get(stage, {}).items():
        name, _, pair = key.rpartition("-")
        recipe = name.removeprefix(f"{model}-")
        if recipe != name and recipe in (BASELINE, *QUANTIZED):
            found.setdefault(recipe, {})[pair] = values["test"][metric]
    return found


def ratios(of: Scores, recipe: str) -> dict[str, float]:
    """Score over that of the baseline, pair by pair."""
    base = of.get(BASELINE, {})
    return {pair: value / base[pair] for pair, value in of.get(recipe, {}).items() if pair in base}


def apart(first: Mapping[str, float], second: Mapping[str, float]) -> list[float]:
    """``first − second`` of the pairs that both have."""
    return [first[pair] - second[pair] for pair in sorted(first.keys() & second.keys())]


def numbers(stored: Stored) -> dict[str, Number]:
    """Every number about scores that a claim may be decided by."""
    sizes = sorted({key.split("-")[1] for key in stored.get("grid", {})})
    found: dict[str, Number | None] = {}
    for size in sizes:
        for arch in ARCHITECTURES:
            found |= _of_model(f"grid.{arch}-{size}", scores(stored, "grid", f"{arch}-{size}"))
        found |= _between(stored, size)
    found |= _of_model("wide.cnn-500k", scores(stored, "wide", "cnn-500k"))
    found |= _converged(stored) | _growth(stored) | _folds(stored) | _norms(stored)
    return present(found)


def _of_model(title: str, of: Scores) -> dict[str, Number | None]:
    """Of each recipe against bf16, and of recipes against each other."""
    base = of.get(BASELINE, {})
    found: dict[str, Number | None] = {
        f"{title}.{BASELINE}.score": mean(list(base.values()), AUPRC)
    }
    for recipe in QUANTIZED:
        normalised = list(ratios(of, recipe).values())
        found[f"{title}.{recipe}.ratio"] = mean(normalised)
        found[f"{title}.{recipe}.ratio-of-family"] = mean(normalised, level=FAMILY_LEVEL)
        found[f"{title}.{recipe}.difference"] = mean(apart(of.get(recipe, {}), base), AUPRC)
    for better, worse in (("nvfp4-sr", "nvfp4"), ("nvfp4-2d-rht-sr", "nvfp4-sr")):
        found[f"{title}.{better}-over-{worse}"] = mean(apart(ratios(of, better), ratios(of, worse)))
    return found


def _between(stored: Stored, size: str) -> dict[str, Number | None]:
    """Of one architecture against another: scores in bf16, and how much of them recipes leave."""
    of = {arch: scores(stored, "grid", f"{arch}-{size}") for arch in ARCHITECTURES}
    left = {arch: _mean_ratio(of[arch], OF_GRADIENTS) for arch in ARCHITECTURES}
    found: dict[str, Number | None] = {}
    for first, second in (("swin", "vit"), ("swin", "cnn"), ("cnn", "vit")):
        title = f"grid.{first}-over-{second}-{size}"
        bases = (of[first].get(BASELINE, {}), of[second].get(BASELINE, {}))
        found[f"{title}.score"] = mean(apart(*bases), AUPRC)
        found[f"{title}.ratio"] = mean(apart(left[first], left[second]))
    return found


def _mean_ratio(of: Scores, recipes: Sequence[str]) -> dict[str, float]:
    """The mean over recipes of what is left of the score, for pairs that have them all."""
    each = [ratios(of, recipe) for recipe in recipes]
    pairs = set.intersection(*(set(one) for one in each))
    return {pair: sum(one[pair] for one in each) / len(each) for pair in pairs}


def _converged(stored: Stored) -> dict[str, Number | None]:
    """The share of quantized trainings that ended with half of their bf16 run's AUPRC or more."""
    sizes = sorted({key.split("-")[1] for key in stored.get("grid", {})})
    models = [f"{arch}-{size}" for size in sizes for arch in ARCHITECTURES]
    kept = [
        ratio
        for model in models
        for recipe in QUANTIZED
        for ratio in ratios(scores(stored, "grid", model), recipe).values()
    ]
    share = sum(ratio >= 0.5 for ratio in kept) / len(kept) if kept else 0.0
    return {"grid.converged": Number.exact(share, len(kept)) if kept else None}


def _growth(stored: Stored) -> dict[str, Number | None]:
    """What the wider CNN keeps of its score, less what the narrow one does; seeds side by side."""
    found: dict[str, Number | None] = {}
    for title, stage, wide, small in (
        ("wide.growth", "wide", "cnn-500k", "cnn-tiny"),
        ("grid.growth", "grid", "cnn-4m", "cnn-500k"),
    ):
        wider, narrow = scores(stored, stage, wide), scores(stored, "grid", small)
        for recipe in ("nvfp4", "nvfp4-sr"):
            found[f"{title}.{recipe}"] = mean(apart(ratios(wider, recipe), ratios(narrow, recipe)))
    return found


def tests(stored: Stored, stage: str, model: str) -> dict[str, float]:
    """p of the Wilcoxon signed-rank test of each recipe against bf16, after Holm."""
    of = scores(stored, stage, model)
    base = of.get(BASELINE, {})
    paired = {
        recipe: sorted(of.get(recipe, {}).keys() & base.keys())
        for recipe in QUANTIZED
        if len(of.get(recipe, {}).keys() & base.keys()) > 1
    }
    raw = [
        wilcoxon([of[recipe][pair] for pair in pairs], [base[pair] for pair in pairs]).p
        for recipe, pairs in paired.items()
    ]
    return dict(zip(paired, holm(raw), strict=True))


def _folds(stored: Stored) -> dict[str, Number | None]:
    """Fold by fold; folds share training patients, so intervals are somewhat too narrow."""
    sizes = sorted({key.split("-")[1] for key in stored.get("folds", {})})
    found: dict[str, Number | None] = {}
    for size in sizes:
        of = {arch: scores(stored, "folds", f"{arch}-{size}") for arch in ("swin", "cnn")}
        for arch, recipe in product(of, ("nvfp4", "nvfp4-2d-rht-sr")):
            title = f"folds.{arch}-{size}.{recipe}"
            base = of[arch].get(BASELINE, {})
            found[f"{title}.difference"] = mean(apart(of[arch].get(recipe, {}), base), AUPRC)
        for recipe in (BASELINE, "nvfp4", "nvfp4-2d-rht-sr"):
            gap = apart(of["swin"].get(recipe, {}), of["cnn"].get(recipe, {}))
            found[f"folds.swin-over-cnn-{size}.{recipe}"] = mean(gap, AUPRC)
    return found


def _norms(stored: Stored) -> dict[str, Number | None]:
    """What a CNN with another norm keeps of its score, less what batch norm keeps."""
    sizes = sorted({key.split("-")[1] for key in stored.get("norms", {})})
    found: dict[str, Number | None] = {}
    for size, norm in product(sizes, ("layer", "group")):
        other = scores(stored, "norms", f"cnn-{size}-{norm}")
        batch = scores(stored, "grid", f"cnn-{size}")
        for recipe in ("nvfp4", "nvfp4-2d-rht-sr"):
            title = f"norms.cnn-{size}.{norm}.{recipe}"
            found[f"{title}.ratio"] = mean(list(ratios(other, recipe).values()))
            found[f"{title}.over-batch"] = mean(apart(ratios(other, recipe), ratios(batch, recipe)))
    return found
