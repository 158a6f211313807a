"""How a comparison is shown: a table and a sentence per recipe, or JSON.

Nothing is cut at any width: a row that does not fit a terminal becomes a block of lines, and in a
pipe a row is a line.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from qprobe.engine.compare import Comparison, Effect, Group, Mean, Question, Row, Verdict

#: Notes that a table shows; ``--json`` has all.
_NOTES = 20
_GAP = "  "


def show_json(found: Comparison) -> None:
    """Everything, for programs; what does not exist is null."""
    print(json.dumps(asdict(found), indent=2, ensure_ascii=False, allow_nan=False))


def show(found: Comparison) -> None:
    """Each group with its table, its answers in words, and what was left out."""
    console = Console(highlight=False)
    width = console.width if console.is_terminal else None
    for number, group in enumerate(found.groups):
        if number:
            print()
        heading = Text(_heading(group, found.question), style="bold")
        console.print(heading, soft_wrap=True)
        for line in table(group, found.question, width):
            print(line)
        for line in (*_sentences(group, found.question), *_shortened(group.notes)):
            print(line)
    for line in _shortened(found.notes):
        print(line)


def _heading(group: Group, question: Question) -> str:
    return (
        f"{group.title}: {question.metric} on {question.split} data, with {question.level:.0%} "
        "intervals"
    )


def table(group: Group, question: Question, width: int | None) -> Iterator[str]:
    """Aligned columns where they fit ``width`` (None: always), else a block for each recipe."""
    if not group.rows:
        return
    base = question.baseline
    titles = ["recipe", "runs", "mean", "pairs", f"minus {base}", "p", "p (Holm)", "Cohen's d"]
    titles.append(f"% of {base}")
    rows = [_cells(row) for row in group.rows]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    if width is None or sum(widths) + len(_GAP) * (len(widths) - 1) <= width:
        yield from (_aligned(cells, widths) for cells in (titles, *rows))
        return
    longest = max(map(len, titles))
    for row in rows:
        yield row[0]
        for title, cell in zip(titles[1:], row[1:], strict=True):
            yield f"{_GAP}{title:{longest}}{_GAP}{cell}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
    return _GAP.join(padded).rstrip()


def _cells(row: Row) -> list[str]:
    own = [row.recipe, str(row.score.n), _interval(row.score)]
    effect = row.effect
    if effect is None:
        return [*own, *["-"] * 6]
    d = effect.cohens_d
    return [
        *own,
        str(effect.difference.n),
        _interval(effect.difference, "+"),
        f"{effect.p:.3g}",
        f"{effect.p_holm:.3g}",
        "-" if d is None else f"{d.estimate:+.2f} [{d.low:+.2f}, {d.high:+.2f}]",
        "-" if effect.ratio is None else _percent(effect.ratio),
    ]


def _sentences(group: Group, question: Question) -> list[str]:
    said = [_sentence(row, row.effect, question) for row in group.rows if row.effect is not None]
    bare = [row.recipe for row in group.rows if row.effect is None]
    said += [
        f"{recipe}: no pairs with {question.baseline}, so nothing is said about it."
        for recipe in bare
        if recipe != question.baseline
    ]
    return said


def _sentence(row: Row, effect: Effect, question: Question) -> str:
    apart, alpha = effect.difference, 1 - question.level
    pairs = f"{apart.n} pair{'s' if apart.n != 1 else ''}"
    over = f"{_interval(apart, '+')} over {pairs}"
    if effect.verdict is Verdict.TOO_FEW_PAIRS:
        return (
            f"{row.recipe}: too few pairs to say: {over}; with {pairs} the smallest p after Holm's "
            f"correction is {effect.smallest_p:.3g}, above {alpha:.2g}."
        )
    if effect.verdict is Verdict.NO_DIFFERENCE:
        equal = f", {effect.equal} of them equal" if effect.equal else ""
        return f"{row.recipe}: no difference found: {over}{equal}, p = {effect.p_holm:.3g}."
    claim = f"{effect.verdict} than {question.baseline}"
    return f"{row.recipe}: {claim}: {over}, p = {effect.p_holm:.3g}."


def _shortened(notes: tuple[str, ...]) -> list[str]:
    left = len(notes) - _NOTES
    more = [f"note: and {left} more like these; --json has all."] if left > 0 else []
    return [f"note: {note}" for note in notes[:_NOTES]] + more


def _interval(value: Mean, sign: str = "") -> str:
    digits = _digits(value)
    if value.low is None or value.high is None:
        return f"{value.estimate:{sign}.{digits}f}"
    low, high = (f"{bound:{sign}.{digits}f}" for bound in (value.low, value.high))
    return f"{value.estimate:{sign}.{digits}f} [{low}, {high}]"


def _digits(value: Mean) -> int:
    """Enough for two digits of the interval's width, four where there is none."""
    if value.low is None or value.high is None or value.high <= value.low:
        return 4
    return min(8, max(3, 1 - math.floor(math.log10((value.high - value.low) / 2))))


def _percent(ratio: Mean) -> str:
    scaled: dict[str, Any] = {
        name: None if (bound := getattr(ratio, name)) is None else 100 * bound
        for name in ("estimate", "low", "high")
    }
    if scaled["low"] is None:
        return f"{scaled['estimate']:.1f}"
    return "{estimate:.1f} [{low:.1f}, {high:.1f}]".format(**scaled)
