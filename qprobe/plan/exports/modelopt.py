r"""A ``quant_cfg`` for ``modelopt.torch.quantization.quantize``, as a Python module.

Not JSON: ``block_sizes`` has integers for keys, which JSON turns into text that ModelOpt refuses.

Entries apply in their order, later ones win; ``quantizer_name`` is a pattern of ``fnmatch`` over
the names of quantizers, ``<layer>.weight_quantizer`` and ``<layer>.input_quantizer``. Everything is
switched off first, as ModelOpt's own presets do.

Reference: NVIDIA ModelOpt 0.47, ``modelopt.torch.quantization.config.QuantizerCfgEntry``.
"""

from pprint import pformat

from qprobe.plan.exports.glob import literal
from qprobe.plan.plan import Plan
from qprobe.plan.scheme import Nvfp4, scheme, unsupported

_QUANTIZERS = ("weight_quantizer", "input_quantizer")


def text(plan: Plan) -> str:
    """A module with one literal: ``mtq.quantize(model, QUANT_CFG, forward_loop)`` applies it."""
    configurations, where = _configurations(plan.recipe)
    entries: list[object] = [{"quantizer_name": "*", "enable": False}]
    for layer in plan.quantized:
        for quantizer, configuration in configurations.items():
            name = f"{literal(layer.path)}.{quantizer}"
            entry: dict[str, object] = {
                "quantizer_name": name,
                "cfg": configuration,
                "enable": True,
            }
            entries.append(entry | where)
    for layer in plan.kept:
        name = f"{literal(layer.path)}.*quantizer"
        entries.append({"quantizer_name": name, "enable": False})
    value = pformat({"quant_cfg": entries, "algorithm": "max"}, width=100, sort_dicts=False)
    comment = f"# qprobe's {ascii(plan.recipe)[1:-1]}; {plan.summary}"
    return f"{comment}\nQUANT_CFG = {value}\n"


def _configurations(recipe: str) -> tuple[dict[str, object], dict[str, object]]:
    """The configuration of each quantizer, and of which modules they have to be."""
    form = scheme(recipe, "modelopt")
    if isinstance(form, Nvfp4):
        if form.rotated:
            raise unsupported(recipe, "modelopt")
        block: object = {-1: 16, "type": "dynamic", "scale_bits": [4, 3]}
        both: object = {"num_bits": [2, 1], "block_sizes": block}
        return dict.fromkeys(_QUANTIZERS, both), {}
    if form.per_tensor:
        whole: object = {"num_bits": form.bits, "axis": None}
        return dict.fromkeys(_QUANTIZERS, whole), {}
    weight: object = {"num_bits": form.bits, "axis": 0}
    token: object = {"num_bits": form.bits, "block_sizes": {-1: None, "type": "dynamic"}}
    # The last axis of a convolution's input is a row of the image, not a token.
    return dict(zip(_QUANTIZERS, (weight, token), strict=True)), {"parent_class": "nn.Linear"}
