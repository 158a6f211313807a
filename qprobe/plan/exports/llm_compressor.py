"""A recipe for llm-compressor, whose schemes and targets are those of compressed-tensors.

A target is the name of a module, the name of a class, or, after ``re:``, a regular expression that
has to match from the start of the name. Every name here is such an expression with an end to it:
none can be taken for a class, and none matches a longer name.

Reference: llm-compressor 0.14, ``QuantizationModifier``; compressed-tensors 0.20,
``quantization.QuantizationArgs`` and ``utils.match.match_name``.
"""

import re

from qprobe.plan.exports.yaml import Yaml, dump
from qprobe.plan.plan import Plan
from qprobe.plan.scheme import Nvfp4, scheme, unsupported


def text(plan: Plan) -> str:
    """YAML: ``oneshot(model=model, recipe=path, ...)`` applies it."""
    targets = [_target(layer.path) for layer in plan.quantized]
    group: dict[str, Yaml] = {"targets": targets, **_arguments(plan.recipe)}
    modifier: dict[str, Yaml] = {
        "config_groups": {"group_0": group},
        "ignore": [_target(layer.path) for layer in plan.kept],
    }
    recipe = {"default_stage": {"default_modifiers": {"QuantizationModifier": modifier}}}
    return dump(
        recipe,
        [f"qprobe's {plan.recipe}; {plan.summary}"],
    )


def _target(path: str) -> str:
    return rf"re:{re.escape(path)}\Z"


def _arguments(recipe: str) -> dict[str, Yaml]:
    form = scheme(recipe, "llm-compressor")
    if isinstance(form, Nvfp4):
        if form.rotated:
            raise unsupported(recipe, "llm-compressor")
        shared: dict[str, Yaml] = {
            "num_bits": 4,
            "type": "float",
            "strategy": "tensor_group",
            "group_size": 16,
            "symmetric": True,
            "scale_dtype": _E4M3,
            "zp_dtype": _E4M3,
        }
        inputs: dict[str, Yaml] = {**shared, "dynamic": "local", "observer": "static_minmax"}
        return {"weights": {**shared, "dynamic": False}, "input_activations": inputs}
    integer: dict[str, Yaml] = {"num_bits": form.bits, "type": "int", "symmetric": True}
    strategies = ("tensor", "tensor") if form.per_tensor else ("channel", "token")
    return {
        "weights": {**integer, "strategy": strategies[0], "dynamic": False},
        "input_activations": {**integer, "strategy": strategies[1], "dynamic": True},
    }


_E4M3 = "torch.float8_e4m3fn"
