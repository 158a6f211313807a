"""The built-in recipes, each one literal.

The NVFP4 recipes are the eight of "Not All NVFP4 QAT Recipes Are Equal" (arXiv 2605.27616), whose
release names them without code for the quantized path; what each does to an operand is Transformer
Engine's meaning of the same words. ``nvfp4-fwd-rht`` is not defined there: with a backward pass in
high precision the rotation of wgrad that its table asks for cancels. The text says that the
rotation smooths the *forward* logits, so here x and w are rotated along the axis that fprop sums
over.

The integer recipes are the granularities of MedQuanBench: gradients pass straight through the
quantizer, that is, the backward products use fprop's values.
"""

from qprobe.errors import InputError
from qprobe.quant.formats import INT3, INT4, INT8, NVFP4, IntFormat
from qprobe.quant.recipe import REUSE_FPROP, Gemm, QuantRecipe
from qprobe.quant.rounding import Rounding
from qprobe.quant.spec import Granularity, QuantSpec, Tile
from qprobe.registry import Registry

_STUDY = "arXiv 2605.27616, Table 1"
_MEDQUANBENCH = "MedQuanBench, section 3"
_TE = "Transformer Engine, NVFP4BlockScaling"

_RTN = QuantSpec(format=NVFP4)
_SR = QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)
_TILE = QuantSpec(format=NVFP4, tile=Tile.TWO_D)

BF16 = QuantRecipe(
    name="bf16",
    summary="nothing is quantized: the baseline",
    reference=_STUDY,
)
NVFP4_FULL = QuantRecipe(
    name="nvfp4",
    fprop=Gemm(a=_RTN, b=_RTN),
    dgrad=Gemm(a=_RTN, b=_RTN),
    wgrad=Gemm(a=_RTN, b=_RTN),
    summary="every operand in 1x16 blocks, rounded to nearest",
    reference=f"{_STUDY}: NVFP4 Full",
)
NVFP4_FWD = QuantRecipe(
    name="nvfp4-fwd",
    fprop=Gemm(a=_RTN, b=_RTN),
    summary="forward only; gradients from the original weights and activations",
    reference=f"{_STUDY}: Fwd-Only",
)
NVFP4_FWD_RHT = QuantRecipe(
    name="nvfp4-fwd-rht",
    fprop=Gemm(a=_RTN, b=_RTN, hadamard=16),
    summary="forward only, x and w rotated first",
    reference=f"{_STUDY}: Fwd+RHT, defined here as a rotation of the forward product",
)
NVFP4_CHAIN = QuantRecipe(
    name="nvfp4-chain",
    fprop=Gemm(a=_RTN, b=_RTN),
    dgrad=Gemm(b=REUSE_FPROP),
    wgrad=Gemm(b=REUSE_FPROP),
    summary="forward only; gradients from the quantized weights and activations",
    reference=f"{_STUDY}: Chain Rule",
)
NVFP4_SR = QuantRecipe(
    name="nvfp4-sr",
    fprop=Gemm(a=_RTN, b=_RTN),
    dgrad=Gemm(a=_SR, b=_RTN),
    wgrad=Gemm(a=_SR, b=_RTN),
    summary="every operand; gradients rounded stochastically",
    reference=f"{_STUDY}: SR Only",
)
NVFP4_2D_RHT = QuantRecipe(
    name="nvfp4-2d-rht",
    fprop=Gemm(a=_RTN, b=_TILE),
    dgrad=Gemm(a=_RTN, b=_TILE),
    wgrad=Gemm(a=_RTN, b=_RTN, hadamard=16),
    summary="weights in 16x16 tiles, wgrad rotated",
    reference=f"{_STUDY}: 2D+RHT",
)
NVFP4_2D_RHT_SR = QuantRecipe(
    name="nvfp4-2d-rht-sr",
    fprop=Gemm(a=_RTN, b=_TILE),
    dgrad=Gemm(a=_SR, b=_TILE),
    wgrad=Gemm(a=_SR, b=_RTN, hadamard=16),
    summary="weights in 16x16 tiles, wgrad rotated, gradients rounded stochastically",
    reference=f"{_STUDY}: 2D+RHT+SR; {_TE}",
)


def _integers(form: IntFormat, activations: Granularity, weights: Granularity) -> QuantRecipe:
    shared = {
        Granularity.TENSOR: "one scale per tensor",
        Granularity.CHANNEL_TOKEN: "one scale per channel (convolutions) or token (linears)",
        Granularity.ADAPTIVE: "one scale per voxel (1x1 convolutions), channel or token",
    }
    return QuantRecipe(
        name=f"{form}-{activations}",
        fprop=Gemm(
            a=QuantSpec(format=form, granularity=activations),
            b=QuantSpec(format=form, granularity=weights),
        ),
        dgrad=Gemm(b=REUSE_FPROP),
        wgrad=Gemm(b=REUSE_FPROP),
        summary=f"weights and activations in {form.bits} bits, {shared[activations]}",
        reference=f"{_MEDQUANBENCH}: W{form.bits}A{form.bits}",
    )


INT8_TENSOR = _integers(INT8, Granularity.TENSOR, Granularity.TENSOR)
INT8_CHANNEL_TOKEN = _integers(INT8, Granularity.CHANNEL_TOKEN, Granularity.CHANNEL)
INT8_ADAPTIVE = _integers(INT8, Granularity.ADAPTIVE, Granularity.CHANNEL)
INT4_TENSOR = _integers(INT4, Granularity.TENSOR, Granularity.TENSOR)
INT4_CHANNEL_TOKEN = _integers(INT4, Granularity.CHANNEL_TOKEN, Granularity.CHANNEL)
INT4_ADAPTIVE = _integers(INT4, Granularity.ADAPTIVE, Granularity.CHANNEL)
INT3_TENSOR = _integers(INT3, Granularity.TENSOR, Granularity.TENSOR)
INT3_CHANNEL_TOKEN = _integers(INT3, Granularity.CHANNEL_TOKEN, Granularity.CHANNEL)
INT3_ADAPTIVE = _integers(INT3, Granularity.ADAPTIVE, Granularity.CHANNEL)


def _check(name: str, obj: object) -> QuantRecipe:
    if not isinstance(obj, QuantRecipe):
        raise InputError(f"recipe {name!r} is a {type(obj).__name__}, not a QuantRecipe.")
    if obj.name != name:
        raise InputError(f"recipe {obj.name!r} is registered under another name, {name!r}.")
    return obj


#: Every recipe by name; other distributions add theirs through the entry-point group.
registry = Registry("qprobe.recipes", "recipe", _check)

#: The order of the study, then integers from fine to coarse; what others add comes after.
_ORDER = (
    *("bf16", "nvfp4", "nvfp4-fwd", "nvfp4-fwd-rht", "nvfp4-chain", "nvfp4-sr"),
    *("nvfp4-2d-rht", "nvfp4-2d-rht-sr"),
    *("int8-tensor", "int8-channel-token", "int8-adaptive"),
    *("int4-tensor", "int4-channel-token", "int4-adaptive"),
    *("int3-tensor", "int3-channel-token", "int3-adaptive"),
)


def recipe(name: str) -> QuantRecipe:
    """The recipe called ``name``.

    >>> recipe("nvfp4-chain").cells()["wgrad x"]
    "fprop's"
    """
    return registry.get(name)


def recipes() -> list[QuantRecipe]:
    """Every recipe, the built-in ones first."""
    known = {name: place for place, name in enumerate(_ORDER)}
    names = sorted(registry.names(), key=lambda name: (known.get(name, len(known)), name))
    return [registry.get(name) for name in names]
