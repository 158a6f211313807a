"""Contradictions do not construct; the built-in recipes are the study's table."""

import dataclasses

import pytest

from qprobe.errors import InputError, UnknownNameError
from qprobe.quant import (
    INT4,
    NVFP4,
    REUSE_FPROP,
    Gemm,
    Granularity,
    IntFormat,
    QuantRecipe,
    QuantSpec,
    Rounding,
    Tile,
    recipe,
    recipes,
)
from qprobe.quant.formats import MXFP4

RTN = QuantSpec(format=NVFP4)
SR = QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)
TILE = QuantSpec(format=NVFP4, tile=Tile.TWO_D)
INTEGER = QuantSpec(format=INT4)


def build(**parts: object) -> QuantRecipe:
    return QuantRecipe(name="mine", summary="s", reference="r", **parts)  # type: ignore[arg-type]


#: name: (fprop x, fprop w, dgrad dy, dgrad w, wgrad dy, wgrad x)
STUDY = {
    "bf16": ("–", "–", "–", "–", "–", "–"),
    "nvfp4": ("1d", "1d", "1d", "1d", "1d", "1d"),
    "nvfp4-fwd": ("1d", "1d", "–", "–", "–", "–"),
    "nvfp4-fwd-rht": ("RHT 1d", "RHT 1d", "–", "–", "–", "–"),
    "nvfp4-chain": ("1d", "1d", "–", "fprop's", "–", "fprop's"),
    "nvfp4-sr": ("1d", "1d", "1d SR", "1d", "1d SR", "1d"),
    "nvfp4-2d-rht": ("1d", "2d", "1d", "2d", "RHT 1d", "RHT 1d"),
    "nvfp4-2d-rht-sr": ("1d", "2d", "1d SR", "2d", "RHT 1d SR", "RHT 1d"),
}


def test_the_eight_recipes_are_the_studys_table() -> None:
    assert [r.name for r in recipes()[:8]] == list(STUDY)
    for name, row in STUDY.items():
        cells = recipe(name).cells()
        assert list(cells) == ["fprop x", "fprop w", "dgrad dy", "dgrad w", "wgrad dy", "wgrad x"]
        assert tuple(cell.replace("nvfp4/", "") for cell in cells.values()) == row


def test_the_integer_recipes_pass_gradients_through_fprops_values() -> None:
    names = [
        f"int{bits}-{how}" for bits in (8, 4, 3) for how in ("tensor", "channel-token", "adaptive")
    ]
    assert [r.name for r in recipes()[8:17]] == names
    for name in names:
        r = recipe(name)
        assert r.dgrad == r.wgrad == Gemm(b=REUSE_FPROP)
        assert r.fprop.b.granularity is (  # type: ignore[union-attr]
            Granularity.TENSOR if name.endswith("tensor") else Granularity.CHANNEL
        )


def test_only_gradients_are_random() -> None:
    assert [r.name for r in recipes() if r.random] == ["nvfp4-sr", "nvfp4-2d-rht-sr"]
    assert [r.name for r in recipes() if not r.quantizes] == ["bf16"]


def test_the_name_of_a_member_means_the_member() -> None:
    spec = QuantSpec(format=NVFP4, rounding="stochastic", tile="2d")  # type: ignore[arg-type]
    assert spec.rounding is Rounding.STOCHASTIC
    assert spec.tile is Tile.TWO_D


def test_a_recipe_is_frozen_and_compares_by_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe("nvfp4").name = "other"  # type: ignore[misc]
    assert build(fprop=Gemm(a=RTN, b=RTN)) == build(fprop=Gemm(a=QuantSpec(format=NVFP4), b=RTN))
    assert hash(recipe("nvfp4")) == hash(dataclasses.replace(recipe("nvfp4")))


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no recipe called 'nvfp4-2d'; did you mean 'nvfp4"):
        recipe("nvfp4-2d")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gemm(a=REUSE_FPROP), "cannot be taken from fprop"),
        (lambda: Gemm(a=RTN, hadamard=16), "rotation cancels"),
        (lambda: Gemm(a=RTN, b=REUSE_FPROP, hadamard=16), "rotation cancels"),
        (lambda: Gemm(a=RTN, b=RTN, hadamard=32), "size 16, got 32"),
        (
            lambda: Gemm(a=INTEGER, b=INTEGER, hadamard=16),
            "rotation is for block formats, got int4",
        ),
        (lambda: Gemm(a=RTN, b=TILE, hadamard=16), "rotated operand has 1d blocks"),
        (lambda: QuantSpec(format=INT4, tile=Tile.TWO_D), "int4 has no blocks"),
        (
            lambda: QuantSpec(format=INT4, rounding=Rounding.STOCHASTIC),
            "int4 is rounded to nearest",
        ),
        (lambda: QuantSpec(format=NVFP4, granularity=Granularity.TOKEN), "shares scales by blocks"),
        (lambda: QuantSpec(format=MXFP4, tile=Tile.TWO_D), "mxfp4 has no 2d tile"),
        (lambda: QuantSpec(format="nvfp4"), "format has to be a Format"),  # type: ignore[arg-type]
        (lambda: build(fprop=Gemm(a=SR, b=RTN)), "fprop rounds to nearest"),
        (lambda: build(fprop=Gemm(a=RTN, b=SR)), "fprop rounds to nearest"),
        (lambda: build(fprop=Gemm(a=TILE, b=TILE)), "not for fprop's activations"),
        (lambda: build(fprop=Gemm(b=REUSE_FPROP)), "fprop cannot reuse"),
        (lambda: build(dgrad=Gemm(a=TILE)), "not for dgrad's activations"),
        (lambda: build(wgrad=Gemm(b=TILE)), "not for wgrad's activations"),
        (lambda: build(dgrad=Gemm(b=SR)), "is for dy, not for w"),
        (lambda: build(wgrad=Gemm(b=SR)), "is for dy, not for x"),
        (lambda: build(dgrad=Gemm(b=REUSE_FPROP)), "fprop leaves in high precision"),
        (lambda: build(fprop=Gemm(b=RTN), wgrad=Gemm(b=REUSE_FPROP)), "fprop leaves in high"),
        (lambda: build(attention=Gemm(a=SR)), "attention rounds to nearest"),
        (lambda: build(attention=Gemm(b=TILE)), "attention multiplies activations"),
        (
            lambda: build(
                attention=Gemm(b=QuantSpec(format=INT4, granularity=Granularity.ADAPTIVE))
            ),
            "attention is no layer",
        ),
        (lambda: build(skip="head"), "skip is a tuple of globs"),
        (lambda: QuantSpec(format=NVFP4, tile="3d"), "tile is one of '1d', '2d'; got '3d'"),  # type: ignore[arg-type]
        (
            lambda: QuantSpec(format=INT4, granularity="row"),  # type: ignore[arg-type]
            "granularity is one of 'tensor', .* got 'row'",
        ),
        (lambda: IntFormat(name="int16", bits=16), "int16: codes of 2 to 8 bits .* got 16"),
        (lambda: IntFormat(name="int1", bits=1), "got 1"),
        (lambda: dataclasses.replace(NVFP4, tensor_scale=False), "goes with e4m3 scales"),
        (lambda: dataclasses.replace(NVFP4, block=0), "got 0 of e2m1"),
        (
            lambda: dataclasses.replace(
                NVFP4, element=dataclasses.replace(NVFP4.element, magnitudes=(0.0, 1.0))
            ),
            "blocks hold one or more E2M1 elements",
        ),
        (lambda: QuantRecipe(name=" ", summary="s", reference="r"), "needs a name"),
        (lambda: QuantRecipe(name="x", summary="s", reference=""), "needs a reference"),
    ],
)
def test_contradictions(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
