"""How a comparison is shown: a table and a sentence per recipe, or JSON."""

import json
import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qprobe.engine.compare import Comparison, Effect, Group, Mean, Question, Row, Verdict

#: Notes that a table shows; ``--json`` has all.
_NOTES = 20


def show_json(found: Comparison) -> None:
    """Everything, for programs; what does not exist is null."""
    print(json.dumps(asdict(found), indent=2, ensure_ascii=False, allow_nan=False))


def show(found: Comparison) -> None:
    """A table for each group; in a pipe a recipe is one line, whatever its length."""
    console = Console(highlight=False)
    wide = {"crop": False, "soft_wrap": True} if not console.is_terminal else {}
    for number, group in enumerate(found.groups):
        if number:
            console.print()
        console.print(Text(_heading(group, found.question), style="bold"), **wide)  # type: ignore[arg-type]
        if group.rows:
            console.print(_table(group, found.question), **wide)  # type: ignore[arg-type]
        for line in (*_sentences(group, found.question), *_shortened(group.notes)):
            console.print(Text(line), **wide)  # type: ignore[arg-type]
    for line in _shortened(found.notes):
        console.print(Text(line), **wide)  # type: ignore[arg-type]


def _heading(group: Group, question: Question) -> str:
    return (
        f"{group.title}: {question.metric} on {question.split} data, with {question.level:.0%} "
        "intervals"
    )


def _table(group: Group, question: Question) -> Table:
    table = Table(box=None, pad_edge=False)
    baseline = question.baseline
    titles = ("recipe", "runs", "mean", "pairs", f"− {baseline}", "p", "p Holm", "Cohen's d")
    for title in (*titles, f"% of {baseline}", ""):
        table.add_column(title, no_wrap=title in ("recipe", "runs", "pairs", "p", "p Holm"))
    for row in group.rows:
        table.add_row(*map(Text, _cells(row, question)))
    return table


def _cells(row: Row, question: Question) -> list[str]:
    own = [row.recipe, str(row.score.n), _interval(row.score)]
    effect = row.effect
    if effect is None:
        empty = "baseline" if row.recipe == question.baseline else "no pairs"
        return [*own, *["-"] * 6, empty]
    d = effect.cohens_d
    return [
        *own,
        str(effect.difference.n),
        _interval(effect.difference, "+"),
        f"{effect.p:.3g}",
        f"{effect.p_holm:.3g}",
        "-" if d is None else f"{d.estimate:+.2f} [{d.low:+.2f}, {d.high:+.2f}]",
        "-" if effect.ratio is None else _percent(effect.ratio),
        str(effect.verdict),
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
