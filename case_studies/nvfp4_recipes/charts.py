"""The charts of the page: which numbers are drawn, side by side with what."""

import math
from collections.abc import Mapping, Sequence

import foresight
import quality
from chart import Chart, Panel, Row
from number import Number, Stored, mean
from protocol import ARCHITECTURES, BASELINE, QUANTIZED

Numbers = Mapping[str, Number]


def of(stored: Stored, numbers: Numbers) -> dict[str, Chart]:
    """Every chart, by the name of its file."""
    return {
        "recipes": _recipes(stored, numbers),
        "cross-validation": _folds(stored),
        "attention": _attention(numbers),
        "gradient-noise": _gradients(numbers),
        "curvature": _curvature(numbers),
        "norm": _norms(stored),
        "early": _early(numbers),
    }


def _named(title: str, neutral: float | None, rows: Mapping[str, Number | None]) -> Panel:
    """A panel of numbers without single values."""
    shown = tuple(Row(label=label, number=number) for label, number in rows.items())
    return Panel(title=title, rows=shown, neutral=neutral)


def _attention(numbers: Numbers) -> Chart:
    starts = {"post-hoc": "weights trained in bf16", "trained": "trained with the recipe"}
    panels = tuple(
        _named(
            title,
            1.0,
            {
                name: numbers.get(f"attention.{start}.{name}.prediction_levels_ratio")
                for name in QUANTIZED
            },
        )
        for start, title in starts.items()
    )
    return Chart(
        title="Are the predictions of the small Swin a staircase? Below 1, levels are lost",
        axis="effective levels of the predictions over those in high precision; 95 % interval",
        panels=panels,
    )


def _gradients(numbers: Numbers) -> Chart:
    recipes = ("gradient-nearest", "gradient-stochastic", "nvfp4-fwd", "nvfp4", "nvfp4-sr")
    panels = tuple(
        _named(
            f"{phase}, 32 channels",
            None,
            {name: numbers.get(f"gradient.{phase}-w32.{name}.noise_ratio") for name in recipes},
        )
        for phase in ("init", "early", "late")
    )
    return Chart(
        title="How large is the error of weight gradients beside the noise of the mini-batch?",
        axis="error energy of dw over the variance of a mini-batch's dw; 95 % interval",
        panels=panels,
    )


def _curvature(numbers: Numbers) -> Chart:
    keys = {
        "trace, scale-free": "normalised_trace",
        "top, scale-free": "normalised_top",
        "trace": "trace",
        "½ΔwᵀHΔw, nvfp4": "nvfp4.second",
        "nᵀHn/gᵀHg, nvfp4": "nvfp4.noise_share",
    }
    titles = {"level": "at equal training loss", "end": "at the end"}
    panels = tuple(
        _named(
            title,
            0.0,
            {
                label: _decades(numbers.get(f"curvature.{state}.swin-over-cnn.{key}"))
                for label, key in keys.items()
            },
        )
        for state, title in titles.items()
    )
    return Chart(
        title="Is Swin in a flatter minimum than the CNN? Left of the line, it is",
        axis="powers of ten of Swin over CNN, mean over seeds; 95 % interval",
        panels=panels,
    )


def _recipes(stored: Stored, numbers: Numbers) -> Chart:
    panels = []
    for arch in ("cnn", "vit", "swin"):
        scores = quality.scores(stored, "grid", f"{arch}-tiny")
        rows = tuple(
            Row(
                label=recipe,
                number=numbers.get(f"grid.{arch}-tiny.{recipe}.ratio"),
                points=tuple(quality.ratios(scores, recipe).values()),
            )
            for recipe in QUANTIZED
        )
        panels.append(Panel(title=f"{arch} tiny", rows=rows, neutral=1.0))
    return Chart(
        title="What each recipe leaves of the AUPRC of bf16 (the paper's Figure 6, tiny models)",
        axis="AUPRC over that of the paired bf16 run; mean, 95 % interval, single seeds",
        panels=tuple(panels),
    )


def _folds(stored: Stored) -> Chart:
    panels = []
    for arch in ("swin", "cnn"):
        scores = quality.scores(stored, "folds", f"{arch}-tiny")
        rows = []
        for recipe in (BASELINE, "nvfp4", "nvfp4-2d-rht-sr"):
            values = tuple(scores.get(recipe, {}).values())
            rows.append(Row(label=recipe, number=mean(values), points=values))
        panels.append(Panel(title=f"{arch} tiny", rows=tuple(rows), neutral=None))
    return Chart(
        title="Five patient-level folds (the paper's Figure 7, tiny models)",
        axis="AUPRC on the patients of the fold; mean, 95 % interval, single folds",
        panels=tuple(panels),
    )


def _decades(ratio: Number | None) -> Number | None:
    """A ratio as a power of ten."""
    if ratio is None:
        return None
    estimate, low, high = (math.log10(one) for one in (ratio.estimate, ratio.low, ratio.high))
    return Number(estimate=estimate, low=low, high=high, n=ratio.n)


def _norms(stored: Stored) -> Chart:
    stages = {"batch": ("grid", "cnn-tiny"), "layer": ("norms", "cnn-tiny-layer")}
    stages["group"] = ("norms", "cnn-tiny-group")
    panels = []
    for recipe in ("nvfp4", "nvfp4-2d-rht-sr"):
        rows = []
        for norm, (stage, model) in stages.items():
            found = quality.ratios(quality.scores(stored, stage, model), recipe)
            values = tuple(found.values())
            rows.append(Row(label=f"{norm} norm", number=mean(values), points=values))
        panels.append(Panel(title=recipe, rows=tuple(rows), neutral=1.0))
    return Chart(
        title="The same CNN with three norms",
        axis="AUPRC over that of the paired bf16 run; mean, 95 % interval, single seeds",
        panels=tuple(panels),
    )


def _early(numbers: Numbers) -> Chart:
    panels: Sequence[Panel] = [
        Panel(
            title=f"{arch} tiny",
            rows=tuple(
                Row(label=_SHORT[predictor], number=numbers.get(f"early.{arch}-tiny.{predictor}"))
                for predictor in foresight.PREDICTORS
            ),
            neutral=0.0,
        )
        for arch in ARCHITECTURES
    ]
    return Chart(
        title="Does the start of a run foretell which recipe ends worst?",
        axis="Spearman's ρ of two rankings of seven recipes; 95 % interval over seeds",
        panels=tuple(panels),
    )


_SHORT = {
    "loss": "training loss",
    "output_noise": "output noise",
    "dw_error": "error of dw",
    "dx_error": "error of dx",
    "logit_error_nats": "logit error",
}
