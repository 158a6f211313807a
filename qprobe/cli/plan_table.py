"""How a plan is shown: the verdict, a line for each layer that is kept, and what to know."""

import json
from dataclasses import asdict

from qprobe.inference import Interval
from qprobe.plan import Layer, Plan

_GAP = "  "


def lines(plan: Plan) -> list[str]:
    """The plan in words and as a table with whole cells."""
    total = len(plan.kept) + len(plan.quantized)
    said = [
        f"{plan.recipe}: keep {len(plan.kept)} of {total} layers in high precision "
        f"({100 * plan.kept_share:.3g} % of {plan.parameters:,} parameters); "
        f"asked for {plan.goal}",
        "",
        *_scores(plan),
    ]
    if plan.kept:
        said += ["", *_table(plan)]
    else:
        said += ["", _nothing(plan)]
    return said + [f"note: {note}" for note in plan.notes]


def as_json(plan: Plan) -> str:
    """Everything, for programs; what does not exist is null."""
    data = asdict(plan) | {
        "goal": str(plan.goal),
        "parameters": plan.parameters,
        "kept_parameters": plan.kept_parameters,
        "kept_share": plan.kept_share,
    }
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)


def _nothing(plan: Plan) -> str:
    high, quantized = plan.score_fp, plan.score_q
    if high is not None and quantized is not None and quantized >= high:
        return "Nothing has to stay in high precision: nothing was lost."
    return "Nothing is kept: the goal is met without, or no layer within it gives anything back."


def _scores(plan: Plan) -> list[str]:
    rows = [
        ("high precision", _score(plan.score_fp)),
        ("all quantized", _score(plan.score_q)),
        ("plan, predicted", _interval(plan.predicted) if plan.predicted else "not measured"),
        ("plan, measured", _interval(plan.measured) if plan.measured else "not yet"),
    ]
    width = max(len(title) for title, _ in rows)
    return [f"{title:{width}}{_GAP}{cell}" for title, cell in rows]


def _score(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _table(plan: Plan) -> list[str]:
    rows = [["layer", "parameters", "gives back"]]
    rows += [[layer.path, f"{layer.parameters:,}", _worth(layer)] for layer in plan.kept]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{path:{widths[0]}}{_GAP}{count:>{widths[1]}}{_GAP}{worth}".rstrip()
        for path, count, worth in rows
    ]


def _worth(layer: Layer) -> str:
    if layer.recovery is not None:
        return _interval(layer.recovery, "+")
    return "not measured" if layer.screen is None else f"screen {layer.screen:.3g}"


def _interval(value: Interval, sign: str = "") -> str:
    return f"{value.estimate:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"
