"""The generated parts of the page: sections of Markdown and charts, from stored results alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import charts
import claims
import evidence
import foresight
import quality
import tables
from cell import enumerate_cells
from chart import draw
from number import Number, Stored
from protocol import ARCHITECTURES, BASELINE
from results import Result
from run import STAGES

Numbers = Mapping[str, Number]

#: Titles of the items whose tables come from an expert of their own, by section.
_OF_EXPERTS = {
    "attention": "discretization",
    "gradient-noise": "rounding",
    "curvature": "minima",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """Sections by the name of their markers, and charts by the name of their file."""

    sections: Mapping[str, str]
    charts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Everything that is stored at one scale, and the numbers in it."""

    kept: Mapping[str, Mapping[str, Result]]
    stored: Stored
    numbers: Numbers

    @classmethod
    def at(cls, folder: Path, scale: str) -> "_Measured":
        kept = evidence.load(folder, scale, STAGES)
        stored = evidence.values(kept)
        return cls(kept=kept, stored=stored, numbers=evidence.numbers(stored))


def page(folder: Path) -> Page:
    """The page from the results in a folder."""
    cpu, gpu = _Measured.at(folder, "cpu"), _Measured.at(folder, "gpu")
    known = claims.load()
    judged = claims.judge(known, "cpu", cpu.numbers)
    sections = {
        "verdicts": f"{_complete(cpu.kept)}{tables.verdicts(judged)}",
        "claims": tables.claims(judged, claims.judge(known, "gpu", gpu.numbers)),
        "recipes": _recipes(cpu),
        "cross-validation": _folds(cpu),
        "norm": _norms(cpu),
        "early": _early(cpu.numbers),
        "costs": _costs(cpu.kept),
        **{name: _of_expert(expert, cpu) for name, expert in _OF_EXPERTS.items()},
    }
    drawn = {name: draw(chart) for name, chart in charts.of(cpu.stored, cpu.numbers).items()}
    return Page(sections=sections, charts=drawn)


def _recipes(of: _Measured) -> str:
    found = {
        f"{arch}-tiny.{recipe}": p
        for arch in ARCHITECTURES
        for recipe, p in quality.tests(of.stored, "grid", f"{arch}-tiny").items()
    }
    wide = {
        "bf16, AUPRC": "wide.cnn-500k.bf16.score",
        "`nvfp4`, share of bf16": "wide.cnn-500k.nvfp4.ratio",
        "`nvfp4-sr`, share of bf16": "wide.cnn-500k.nvfp4-sr.ratio",
        "`nvfp4-sr` less `nvfp4`": "wide.cnn-500k.nvfp4-sr-over-nvfp4",
        "`nvfp4`: 500K less tiny": "wide.growth.nvfp4",
    }
    return "\n\n".join(
        [
            tables.recipes(of.numbers, "tiny", found),
            "p: Wilcoxon signed-rank test against bf16, after Holm over the seven recipes. Five "
            "pairs cannot give less than 0.0625 before it, so the intervals decide.",
            tables.named(of.numbers, wide, "CNN 500K"),
        ]
    )


def _folds(of: _Measured) -> str:
    names = {
        f"{arch} tiny, `{recipe}` less bf16": f"folds.{arch}-tiny.{recipe}.difference"
        for arch in ("swin", "cnn")
        for recipe in ("nvfp4", "nvfp4-2d-rht-sr")
    }
    gaps = {
        f"swin less cnn, `{recipe}`": f"folds.swin-over-cnn-tiny.{recipe}"
        for recipe in (BASELINE, "nvfp4", "nvfp4-2d-rht-sr")
    }
    return tables.named(of.numbers, {**names, **gaps}, "over five folds")


def _norms(of: _Measured) -> str:
    names: dict[str, str] = {}
    for recipe in ("nvfp4", "nvfp4-2d-rht-sr"):
        names[f"batch norm, `{recipe}`, share of bf16"] = f"grid.cnn-tiny.{recipe}.ratio"
        for norm in ("layer", "group"):
            title = f"norms.cnn-tiny.{norm}.{recipe}"
            names[f"{norm} norm, `{recipe}`, share of bf16"] = f"{title}.ratio"
            names[f"{norm} less batch norm, `{recipe}`"] = f"{title}.over-batch"
    return tables.named(of.numbers, names, "CNN tiny")


def _early(numbers: Numbers) -> str:
    head = ["seen early", *ARCHITECTURES]
    rows = [
        [
            SEEN[predictor],
            *(
                tables.shown(numbers.get(f"early.{arch}-tiny.{predictor}"))
                for arch in ARCHITECTURES
            ),
        ]
        for predictor in foresight.PREDICTORS
    ]
    return tables.table(head, rows)


SEEN = {
    "loss": "training loss above that of bf16",
    "output_noise": "noise share of layer outputs",
    "dw_error": "1 − cosine of weight gradients",
    "dx_error": "1 − cosine of input gradients",
    "logit_error_nats": "error of attention logits",
}


def _of_expert(name: str, of: _Measured) -> str:
    """The tables of an expert, folded; nothing was run where it has none."""
    if name not in evidence.EXPERTS:
        return tables.NOT_RUN
    expert: Any = import_module(name)
    parts = [
        f"<details><summary>{one.title}</summary>\n\n"
        f"{tables.table(one.columns, one.rows)}\n\n</details>"
        for one in expert.tables(of.stored)
        if one.rows
    ]
    return "\n\n".join(parts) if parts else tables.NOT_RUN


def _complete(kept: Mapping[str, Mapping[str, Result]]) -> str:
    """That some cells are missing, where they are."""
    there, all_ = sum(len(of) for of in kept.values()), sum(_counts().values())
    if there == all_:
        return ""
    return (
        f"{there} of {all_} cells are measured so far: `n` says how many seeds or folds a number "
        "rests on, whatever a setting says.\n\n"
    )


def _counts() -> dict[str, int]:
    """How many cells each stage has on a CPU."""
    counts = dict.fromkeys(STAGES, 0)
    for cell in enumerate_cells(STAGES, "cpu").values():
        counts[cell.stage] += 1
    return counts


def _costs(kept: Mapping[str, Mapping[str, Result]]) -> str:
    return tables.costs(kept, _counts())
