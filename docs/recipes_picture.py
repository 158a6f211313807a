"""Draw docs/recipes.svg: the eight recipes of the NVFP4 study, operand by operand.

Run by `make docs`; a test holds the picture to the recipes.
"""

from html import escape
from pathlib import Path

import qprobe
from qprobe.quant import QuantRecipe, QuantSpec, Rounding, Source, Tile
from qprobe.quant.recipe import Gemm, How

PICTURE = Path(__file__).with_name("recipes.svg")

LEFT, TOP, WIDE, HIGH, GAP = 190, 78, 108, 34, 14
PRODUCTS = (
    ("fprop", "y = x·wᵀ", ("x", "w")),
    ("dgrad", "dx = dy·w", ("dy", "w")),
    ("wgrad", "dw = dyᵀ·x", ("dy", "x")),
)
#: Fill and ink by what happens to an operand.
COLOURS = {
    "high": ("#eef0f3", "#6b7280"),
    "reuse": ("#d9e8f6", "#1f4e79"),
    "1d": ("#5b9bd5", "#ffffff"),
    "2d": ("#1f4e79", "#ffffff"),
    "sr": ("#e08a2e", "#ffffff"),
}
KEY = (
    ("high", "high precision"),
    ("1d", "NVFP4, blocks of 16"),
    ("2d", "NVFP4, tiles of 16×16"),
    ("sr", "NVFP4, stochastic rounding"),
    ("reuse", "the values fprop used"),
)


def kind(how: How) -> str:
    if how is None:
        return "high"
    if isinstance(how, Source):
        return "reuse"
    if how.rounding is Rounding.STOCHASTIC:
        return "sr"
    return "2d" if how.tile is Tile.TWO_D else "1d"


def label(how: How, gemm: Gemm) -> str:
    if not isinstance(how, QuantSpec):
        return "bf16" if how is None else "fprop's"
    rounding = " SR" if how.rounding is Rounding.STOCHASTIC else ""
    return f"{'RHT ' if gemm.hadamard else ''}{how.tile.value.upper()}{rounding}"


def text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>'


def column(product: int, operand: int) -> float:
    return LEFT + product * (2 * WIDE + GAP) + operand * WIDE


def head() -> list[str]:
    parts = []
    for number, (name, formula, operands) in enumerate(PRODUCTS):
        middle = column(number, 1)
        parts.append(text(middle, 24, name, 'class="name" text-anchor="middle"'))
        parts.append(text(middle, 44, formula, 'class="quiet" text-anchor="middle"'))
        for place, operand in enumerate(operands):
            at = column(number, place) + WIDE / 2
            parts.append(text(at, TOP - 10, operand, 'class="name" text-anchor="middle"'))
    return parts


def row(number: int, recipe: QuantRecipe) -> list[str]:
    y = TOP + number * HIGH
    parts = [text(LEFT - 14, y + 22, recipe.name, 'class="name" text-anchor="end"')]
    for product, (name, _, _) in enumerate(PRODUCTS):
        gemm: Gemm = getattr(recipe, name)
        for place, how in enumerate((gemm.a, gemm.b)):
            x = column(product, place)
            fill, ink = COLOURS[kind(how)]
            box = f'width="{WIDE - 4}" height="{HIGH - 4}" rx="4" fill="{fill}"'
            parts.append(f'<rect x="{x + 2:g}" y="{y + 2}" {box}/>')
            words = label(how, gemm)
            parts.append(text(x + WIDE / 2, y + 22, words, f'text-anchor="middle" fill="{ink}"'))
    return parts


def key(y: int) -> list[str]:
    parts, x = [], 24.0
    for name, meaning in KEY:
        parts.append(
            f'<rect x="{x:g}" y="{y}" width="14" height="14" rx="3" fill="{COLOURS[name][0]}"/>'
        )
        parts.append(text(x + 20, y + 12, meaning, 'class="quiet"'))
        x += 42 + 6.6 * len(meaning)
    parts.append(
        text(
            24,
            y + 36,
            "RHT: both operands rotated by a Hadamard transform of 16 first.",
            'class="quiet"',
        )
    )
    return parts


def draw(recipes: list[QuantRecipe]) -> str:
    wide, high = column(2, 2) + 20, TOP + len(recipes) * HIGH + 70
    style = (
        "text{font:13px 'DejaVu Sans',Verdana,sans-serif}.name{font-weight:600;fill:#111827}"
        ".quiet{fill:#4b5563;font-size:12px}"
    )
    rows = [part for number, recipe in enumerate(recipes) for part in row(number, recipe)]
    body = [*head(), *rows, *key(TOP + len(recipes) * HIGH + 16)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high}" role="img">',
            "<title>What each recipe does to each operand of the three matrix products</title>",
            f"<style>{style}</style>",
            f'<rect width="{wide:g}" height="{high}" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        ]
    )


def study() -> list[QuantRecipe]:
    return [r for r in qprobe.recipes() if r.name == "bf16" or r.name.startswith("nvfp4")]


if __name__ == "__main__":
    PICTURE.write_text(draw(study()))
