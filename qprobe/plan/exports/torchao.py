"""An ``FqnToConfig`` for ``torchao.quantization.quantize_``, as the JSON of ``config_from_dict``.

Keys are names of modules; one that begins with ``re:`` is a regular expression that has to match
the whole name. ``null`` leaves a layer alone. torchao quantizes linear layers.

Reference: torchao 0.18, ``torchao.quantization.FqnToConfig``, ``torchao.core.config``.
"""

import json
import re

from qprobe.plan.plan import Plan
from qprobe.plan.scheme import Nvfp4, scheme, unsupported
from qprobe.records.schema import Json


def text(plan: Plan) -> str:
    """Load it with ``config_from_dict(json.load(file))`` and give it to ``quantize_``."""
    configuration = _configuration(plan.recipe)
    layers: dict[str, Json] = {_key(layer.path): None for layer in plan.kept}
    layers |= {_key(layer.path): configuration for layer in plan.quantized}
    whole: Json = {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": layers}}
    return json.dumps(whole, indent=1) + "\n"


def _key(path: str) -> str:
    """The name itself, unless torchao would read it as something else."""
    if path.startswith("re:") or path == "_default":
        return f"re:{re.escape(path)}"
    return path


def _configuration(recipe: str) -> Json:
    form = scheme(recipe, "torchao")
    if isinstance(form, Nvfp4) and not form.rotated:
        kind, version, fields = "NVFP4DynamicActivationNVFP4WeightConfig", 1, _NVFP4
    elif not isinstance(form, Nvfp4) and form.bits == 8:
        kind, version = "Int8DynamicActivationInt8WeightConfig", 2
        one: Json = {"_type": "PerTensor", "_version": 1, "_data": {}}
        row: Json = {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}
        fields = {"granularity": one if form.per_tensor else row}
    else:
        raise unsupported(recipe, "torchao")
    return {"_type": kind, "_version": version, "_data": fields}


#: The Triton kernel needs a package and a GPU that a plan cannot assume.
_NVFP4: dict[str, Json] = {"use_triton_kernel": False, "use_dynamic_per_tensor_scale": True}
