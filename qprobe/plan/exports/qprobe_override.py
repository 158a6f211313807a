"""TOML of ``{glob = recipe}``, for :func:`qprobe.quant.read_overrides`."""

import json

from qprobe.plan.exports.glob import literal
from qprobe.plan.plan import Plan

#: The recipe that quantizes nothing.
_HIGH = "bf16"


def text(plan: Plan) -> str:
    """Every layer with its recipe: given to ``override``, it is the plan on a plain model too."""
    lines = [
        f"# {plan.summary}",
        "# override(model, read_overrides(path)) of qprobe.quant applies it",
    ]
    recipes = [(layer.path, _HIGH) for layer in plan.kept]
    recipes += [(layer.path, plan.recipe) for layer in plan.quantized]
    lines += [f"{_quoted(literal(path))} = {_quoted(recipe)}" for path, recipe in recipes]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    """A basic string of TOML, whose escapes are JSON's (DEL too is written as an escape)."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
