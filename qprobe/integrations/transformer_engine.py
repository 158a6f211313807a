"""Recipes of Transformer Engine in the words of qprobe, to ask about its modules.

::

    te_recipe = transformer_engine.common.recipe.NVFP4BlockScaling()
    probe = OperandError(recipe=recipe_of(te_recipe))
    session = qprobe.attach(model, probes=["default", probe])

Sites of its modules are found as those of PyTorch's are: ``Linear`` with input, output, weight and
gradients, ``LayerNormLinear`` without the input of its product, which is the norm's result and
stays inside the kernel, ``LayerNormMLP`` and ``DotProductAttention`` from outside. Its modules run
on CUDA devices only.
"""

from typing import Any

from qprobe.errors import InputError
from qprobe.quant import recipes
from qprobe.quant.formats import NVFP4
from qprobe.quant.recipe import REUSE_FPROP, Gemm, QuantRecipe
from qprobe.quant.rounding import Rounding
from qprobe.quant.spec import QuantSpec, Tile

#: What its recipe calls a group of 16 that is rotated together.
_ROTATED = 16


def recipe_of(recipe: Any) -> QuantRecipe:
    """The recipe that does what ``NVFP4BlockScaling`` with these settings does.

    One of the catalogue where it is the same, else one called after its settings. What has no
    counterpart here (other formats, 4over6, scales by row) is refused.
    """
    kind = type(recipe).__name__
    if kind != "NVFP4BlockScaling":
        raise InputError(
            f"{kind} has no counterpart here, only NVFP4BlockScaling has; choose one of "
            "`qprobe list recipes` instead."
        )
    for setting, plain in (("nvfp4_4over6", "none"), ("row_scaled_activation", False)):
        value = getattr(recipe, setting, plain)
        if value != plain:
            raise InputError(
                f"NVFP4BlockScaling with {setting}={value!r} has no counterpart here; "
                f"set it to {plain!r}."
            )
    dgrad, wgrad = _backward(recipe)
    made = QuantRecipe(
        name=_name(recipe),
        fprop=Gemm(a=_spec(recipe.fp4_quant_fwd_inp), b=_spec(recipe.fp4_quant_fwd_weight)),
        dgrad=dgrad,
        wgrad=wgrad,
        summary="NVFP4BlockScaling of Transformer Engine",
        reference="Transformer Engine, NVFP4BlockScaling",
    )
    return next((known for known in recipes() if _same(known, made)), made)


def _backward(recipe: Any) -> tuple[Gemm, Gemm]:
    override = getattr(recipe, "backward_override", None)
    if override == "high_precision":
        return Gemm(), Gemm()
    if override == "dequantized":
        return Gemm(b=REUSE_FPROP), Gemm(b=REUSE_FPROP)
    x, w, dy = recipe.fp4_quant_fwd_inp, recipe.fp4_quant_fwd_weight, recipe.fp4_quant_bwd_grad
    if x.random_hadamard_transform != dy.random_hadamard_transform:
        raise InputError(
            "NVFP4BlockScaling rotates one operand of the weight's gradient and not the other, "
            "which is another product; set random_hadamard_transform alike for both."
        )
    rotated = _ROTATED if x.random_hadamard_transform else None
    return Gemm(a=_spec(dy), b=_spec(w)), Gemm(a=_spec(dy), b=_spec(x), hadamard=rotated)


def _spec(params: Any) -> QuantSpec:
    return QuantSpec(
        format=NVFP4,
        rounding=Rounding.STOCHASTIC if params.stochastic_rounding else Rounding.NEAREST_EVEN,
        tile=Tile.TWO_D if params.fp4_2d_quantization else Tile.ONE_D,
    )


def _name(recipe: Any) -> str:
    parts = [
        "te-nvfp4",
        "2d" if recipe.fp4_quant_fwd_weight.fp4_2d_quantization else "",
        "rht" if recipe.fp4_quant_bwd_grad.random_hadamard_transform else "",
        "sr" if recipe.fp4_quant_bwd_grad.stochastic_rounding else "",
        (getattr(recipe, "backward_override", None) or "").replace("_", "-"),
    ]
    return "-".join(part for part in parts if part)


def _same(one: QuantRecipe, other: QuantRecipe) -> bool:
    return (one.fprop, one.dgrad, one.wgrad, one.attention) == (
        *(other.fprop, other.dgrad, other.wgrad, other.attention),
    )
