import pytest

from qprobe.cli.recipe_table import as_data, for_pipe, for_terminal
from qprobe.quant import (
    INT4,
    MXFP4,
    NVFP4,
    REUSE_FPROP,
    Gemm,
    Granularity,
    QuantRecipe,
    QuantSpec,
    recipe,
    recipes,
)

INT4_TENSOR = QuantSpec(format=INT4, granularity=Granularity.TENSOR)
MIXED = QuantRecipe(
    name="two-formats-and-a-name-that-is-long",
    fprop=Gemm(a=QuantSpec(format=NVFP4), b=INT4_TENSOR),
    dgrad=Gemm(b=REUSE_FPROP),
    attention=Gemm(a=QuantSpec(format=MXFP4)),
    skip=("*.head", "stem"),
    summary="activations and weights differ",
    reference="a test",
)


def plain(known: list[QuantRecipe], width: int) -> list[str]:
    return [line.plain for line in for_terminal(known, width)]


def test_the_built_in_recipes_fit_eighty_columns_with_a_row_each():
    lines = plain(recipes(), 80)
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line[:1].strip()}
    assert rows["nvfp4-2d-rht-sr"] == "1d 2d 1d SR 2d RHT 1d SR RHT 1d"
    assert rows["int8-channel-token"] == "channel-token channel – fprop's – fprop's"
    assert rows["bf16"] == "– – – – – –"


def test_the_headings_stand_over_their_columns():
    lines = plain(recipes(), 80)
    place = next(i for i, line in enumerate(lines) if line.startswith("recipe "))
    products, operands = lines[place - 1 : place + 1]
    row = next(line for line in lines if line.startswith("nvfp4-sr "))
    assert [
        row[i:].split("  ")[0] for i, letter in enumerate(operands[20:], 20) if letter in "xd"
    ] == [
        "1d",
        "1d SR",
        "1d SR",
        "1d",
    ]
    for product, operand in (("fprop", " x"), ("dgrad", " dy")):
        assert products.index(product) == operands.index(operand, 18) + 1


@pytest.mark.parametrize("width", [20, 40, 60, 78, 80, 200])
def test_nothing_is_lost_at_any_width(width):
    known = [*recipes(), MIXED]
    lines = plain(known, width)
    text = " ".join(" ".join(lines).split())
    for r in known:
        assert r.name in text
        assert r.summary in text
    assert "…" not in text


def test_a_row_that_does_not_fit_becomes_a_block():
    lines = plain([recipe("nvfp4-chain")], 40)
    place = lines.index("nvfp4-chain")
    assert lines[place + 1 : place + 4] == [
        "  fprop  x 1d, w 1d",
        "  dgrad  dy –, w fprop's",
        "  wgrad  dy –, x fprop's",
    ]
    assert "  dgrad  dx = dy·w" in lines


def test_a_recipe_of_two_formats_keeps_them_in_its_cells():
    text = "\n".join(plain([MIXED], 200))
    assert "nvfp4/1d" in text
    assert "int4/tensor" in text
    assert "int4: integers -7 to 7" in text
    assert (
        "activations and weights differ; attention: q and probabilities mxfp4/1d, k and v –; "
        "never in *.head, stem"
    ) in text


def test_the_legend_explains_what_is_shown_and_nothing_else():
    def legend(known: list[QuantRecipe]) -> list[str]:
        lines = plain(known, 200)
        return [line.split("  ")[0] for line in lines[len(lines) - lines[::-1].index("") :]]

    assert legend([recipe("bf16")]) == ["–"]
    assert legend([recipe("nvfp4-chain")]) == ["–", "1d", "fprop's"]
    assert legend([recipe("int4-adaptive")]) == [
        *("–", "fprop's", "channel", "token", "voxel", "adaptive"),
    ]
    assert len(legend(recipes())) == 12


def test_a_group_is_titled_with_the_values_of_its_format():
    title = "nvfp4: ±(0, 0.5, 1, 1.5, 2, 3, 4, 6), one e4m3 scale for 16 elements"
    assert title in plain([recipe("nvfp4")], 80)
    assert "int3: integers -3 to 3" in plain([recipe("int3-tensor")], 80)


def test_columns_in_a_pipe_are_two_or_more_spaces_apart():
    heading, line = for_pipe([MIXED])
    assert heading.split("  ")[0] == "recipe"
    assert [cell for cell in line.split("  ") if cell][:3] == [
        "two-formats-and-a-name-that-is-long",
        "nvfp4/1d",
        "int4/tensor",
    ]


def test_data_tells_missing_from_reused():
    data = as_data(MIXED)
    assert data["products"] == {
        "fprop": {
            "x": {"format": "nvfp4", "rounding": "nearest-even", "tile": "1d"},
            "w": {"format": "int4", "rounding": "nearest-even", "granularity": "tensor"},
            "hadamard": None,
        },
        "dgrad": {"dy": None, "w": "fprop", "hadamard": None},
        "wgrad": {"dy": None, "x": None, "hadamard": None},
    }
    assert data["attention"] == {
        "q and probabilities": {"format": "mxfp4", "rounding": "nearest-even", "tile": "1d"},
        "k and v": None,
        "hadamard": None,
    }
    assert data["skip"] == ["*.head", "stem"]
    assert as_data(recipe("bf16"))["attention"] is None
