"""Recipes as lines of text and as plain data, in pure functions.

Nothing is cut at any width: a row that does not fit becomes a block of lines.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from textwrap import wrap

from rich.text import Text

from qprobe.cli import columns
from qprobe.quant import BlockFormat, Format, Gemm, QuantRecipe, QuantSpec, Source

_INDENT = "    "
_PRODUCTS = {"fprop": "y = x·wᵀ", "dgrad": "dx = dy·w", "wgrad": "dw = dyᵀ·x"}
_OPERANDS = {
    "fprop": ("x", "w"),
    "dgrad": ("dy", "w"),
    "wgrad": ("dy", "x"),
    "attention": ("q and probabilities", "k and v"),
}
_LEGEND = {
    "–": "not quantized: high precision",
    "1d": "blocks along the axis that the product sums over",
    "2d": "square tiles of the weight, so that fprop and dgrad see the same values",
    "SR": "stochastic rounding: up or down at random, right on average; else to nearest",
    "RHT": "both operands are rotated first (Hadamard transform of 16), which spreads outliers",
    "fprop's": "the values that fprop used, not quantized anew",
    "tensor": "one scale for everything",
    "channel": "one scale per channel",
    "token": "one scale per token",
    "voxel": "one scale per position of one image",
    "channel-token": "channel in convolutions, token in linear layers",
    "adaptive": "voxel in 1×1 convolutions, channel in others, token in linear layers",
}


def for_pipe(recipes: Sequence[QuantRecipe]) -> list[str]:
    """A heading, then one line per recipe with whole cells; columns are two or more spaces apart.

    >>> from qprobe.quant import recipe
    >>> for line in for_pipe([recipe("bf16")]):
    ...     print(line)
    recipe  fprop x  fprop w  dgrad dy  dgrad w  wgrad dy  wgrad x  summary
    bf16    –        –        –         –        –         –        nothing is quantized: ...
    """
    titles = ["recipe", *recipes[0].cells(), "summary"]
    rows = [[r.name, *r.cells().values(), _remark(r)] for r in recipes]
    return columns.aligned([titles, *rows])


def for_terminal(recipes: Sequence[QuantRecipe], width: int) -> list[Text]:
    """The table for people: grouped by format, explained, with every summary."""
    groups = _by_format(recipes)
    cells = {r.name: _short_cells(r, name) for name, group in groups.items() for r in group}
    titles = [operand for product in _PRODUCTS for operand in _OPERANDS[product]]
    widths = columns.widths([["", *titles], *([name, *row] for name, row in cells.items())])
    for first, product in zip((1, 3, 5), map(" ".join, _PRODUCTS.items()), strict=True):
        widths[first + 1] = max(widths[first + 1], len(product) - widths[first] - len(columns.GAP))
    fits = sum(widths) + len(columns.GAP) * (len(widths) - 1) <= width
    lines = [Text(line) for line in _intro(width, formulas=not fits)]
    if fits:
        lines += [Text(""), *(Text(line, style="bold") for line in _heading(titles, widths))]
    for group in groups.values():
        lines += [Text(""), Text(_title(group), style="cyan")]
        for r in group:
            own = cells[r.name]
            lines += [_line(r, own, widths)] if fits else _block(r, own)
            lines += [Text(_INDENT + line, style="dim") for line in _wrapped(_remark(r), width)]
    return [*lines, Text(""), *map(Text, _legend(chain(*cells.values()), width))]


def as_data(recipe: QuantRecipe) -> dict[str, object]:
    """A recipe as JSON holds it: ``null`` is high precision, ``"fprop"`` the values fprop used."""
    products = {name: _product(getattr(recipe, name), name) for name in _PRODUCTS}
    attention = recipe.attention
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "reference": recipe.reference,
        "products": products,
        "attention": None if attention is None else _product(attention, "attention"),
        "skip": list(recipe.skip),
    }


def _product(gemm: Gemm, name: str) -> dict[str, object]:
    a, b = _OPERANDS[name]
    return {a: _operand(gemm.a), b: _operand(gemm.b), "hadamard": gemm.hadamard}


def _operand(how: QuantSpec | Source | None) -> dict[str, str] | str | None:
    if how is None:
        return None
    if isinstance(how, Source):
        return "fprop"
    data = {"format": str(how.format), "rounding": str(how.rounding)}
    if isinstance(how.format, BlockFormat):
        return {**data, "tile": str(how.tile)}
    return {**data, "granularity": str(how.granularity)}


def _formats(recipe: QuantRecipe) -> dict[str, Format]:
    gemms = (recipe.fprop, recipe.dgrad, recipe.wgrad)
    return {str(spec.format): spec.format for gemm in gemms for spec in gemm.specs()}


def _by_format(recipes: Sequence[QuantRecipe]) -> dict[str, list[QuantRecipe]]:
    groups: dict[str, list[QuantRecipe]] = {}
    for r in recipes:
        groups.setdefault(" and ".join(_formats(r)), []).append(r)
    return groups


def _title(group: Sequence[QuantRecipe]) -> str:
    formats = _formats(group[0])
    if not formats:
        return "high precision"
    return "; ".join(f"{name}: {_describe(form)}" for name, form in formats.items())


def _describe(form: Format) -> str:
    if isinstance(form, BlockFormat):
        values = ", ".join(f"{value:g}" for value in form.element.magnitudes)
        return f"±({values}), one {form.scale} scale for {form.block} elements"
    return f"integers {-form.largest} to {form.largest}"


def _short_cells(recipe: QuantRecipe, format_name: str) -> list[str]:
    """The cells without the format where the title of the group names the only one."""
    return [cell.replace(f"{format_name}/", "") for cell in recipe.cells().values()]


def _remark(recipe: QuantRecipe) -> str:
    parts = [recipe.summary]
    if recipe.attention is not None:
        parts.append(_attention(recipe.attention))
    if recipe.skip:
        parts.append(f"never in {', '.join(recipe.skip)}")
    return "; ".join(parts)


def _attention(gemm: Gemm) -> str:
    operands = zip(_OPERANDS["attention"], gemm.cells(), strict=True)
    return "attention: " + ", ".join(f"{name} {cell}" for name, cell in operands)


def _heading(titles: Sequence[str], widths: Sequence[int]) -> list[str]:
    pairs = [widths[i] + len(columns.GAP) + widths[i + 1] for i in (1, 3, 5)]
    return [
        columns.row(["", *map(" ".join, _PRODUCTS.items())], [widths[0], *pairs]),
        columns.row(["recipe", *titles], widths),
    ]


def _line(recipe: QuantRecipe, cells: Sequence[str], widths: Sequence[int]) -> Text:
    line = Text(columns.row([recipe.name, *cells], widths))
    line.stylize("bold", 0, len(recipe.name))
    return line


def _block(recipe: QuantRecipe, cells: Sequence[str]) -> list[Text]:
    lines = [Text(recipe.name, style="bold")]
    for i, product in enumerate(_PRODUCTS):
        a, b = _OPERANDS[product]
        lines.append(Text(f"  {product}  {a} {cells[2 * i]}, {b} {cells[2 * i + 1]}"))
    return lines


def _intro(width: int, *, formulas: bool) -> list[str]:
    lines = _wrapped(
        "A layer is three matrix products: fprop, dgrad and wgrad. "
        "A recipe says how the two operands of each are quantized.",
        width + len(_INDENT),
    )
    return lines + [f"  {name}  {formula}" for name, formula in _PRODUCTS.items() if formulas]


def _legend(cells: Iterable[str], width: int) -> list[str]:
    used = set().union(*map(_words, cells))
    known = {word: meaning for word, meaning in _LEGEND.items() if word in used}
    column = max(map(len, known))
    lines: list[str] = []
    for word, meaning in known.items():
        first, *rest = _wrapped(meaning, width - column - len(columns.GAP) + len(_INDENT))
        lines.append(columns.row([word, first], [column, 0]))
        lines += [" " * column + columns.GAP + line for line in rest]
    return lines


def _words(cell: str) -> set[str]:
    """The words of a cell, and those that their explanations use."""
    words = {cell, *cell.replace("/", " ").split()}
    if "adaptive" in words:
        words |= {"voxel", "channel", "token"}
    if "channel-token" in words:
        words |= {"channel", "token"}
    return words


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of ``text`` that leave room for an indent; long words stay whole."""
    return wrap(text, max(width - len(_INDENT), 16), break_long_words=False)
