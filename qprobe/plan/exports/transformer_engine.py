r"""A debug configuration for Transformer Engine: ``DisableQuantizationLayer`` for the kept layers.

Which recipe the other layers run under is said in the training script, by its ``autocast``; this
file takes single layers out of it. Layers are chosen by a regular expression that may match
anywhere in the name, so it is anchored at both ends. Names are those that
``infer_and_assign_layer_names`` gives, the module's path after ``model.``; a name without it
matches too. (``exact_layer_names`` of nvdlfw-inspect 0.2 raises for every layer not named.)

Reference: Transformer Engine 2.20, ``transformer_engine.debug.features``; nvdlfw-inspect 0.2,
``config_manager.LayerSpec``.
"""

import re

from qprobe.plan.exports.yaml import Yaml, dump
from qprobe.plan.plan import Plan
from qprobe.plan.scheme import Nvfp4, scheme, unsupported


def text(plan: Plan) -> str:
    """YAML: the ``config_file`` of ``nvdlfw_inspect.api.initialize``."""
    form = scheme(plan.recipe, "te")
    if not isinstance(form, Nvfp4) or form.rotated:
        raise unsupported(plan.recipe, "te")
    names = "|".join(re.escape(layer.path) for layer in plan.kept)
    # Without a layer to keep the pattern is one that no name matches.
    pattern = rf"\A(?:model\.)?(?:{names})\Z" if plan.kept else r"(?!)"
    section: dict[str, Yaml] = {
        "enabled": True,
        "layers": {"layer_name_regex_pattern": pattern},
        "transformer_engine": {"DisableQuantizationLayer": {"enabled": True}},
    }
    comment = f"train the model under a recipe such as NVFP4BlockScaling (qprobe's {plan.recipe})"
    return dump({"qprobe_high_precision": section}, [comment])
