"""Tables of the page in Markdown, from numbers and judged claims."""

from collections.abc import Iterable, Mapping, Sequence

from claims import ITEMS, Judged
from number import Number
from protocol import ARCHITECTURES, BASELINE, QUANTIZED
from results import Result
from verdicts import Verdict

NOT_RUN = "not run"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; pipes in a cell are escaped.

    >>> print(table(["a", "b"], [["1", "x|y"]]))
    | a | b |
    |---|---|
    | 1 | x\\|y |
    """
    lines = [head, ["---"] * len(head), *rows]
    shown = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    text = ["| " + " | ".join(line) + " |" for line in shown]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)


def shown(number: Number | None) -> str:
    """A number with its interval, or that it was not measured."""
    return NOT_RUN if number is None else number.shown()


def claims(cpu: Sequence[Judged], gpu: Sequence[Judged]) -> str:
    """Every claim with the paper's value, ours and both verdicts, by item."""
    parts = []
    for item in ITEMS:
        rows = [
            [
                here.claim.statement,
                here.claim.source,
                here.claim.paper,
                f"{here.test.setting}: {ours(here)}",
                f"**{here.verdict}**",
                str(there.verdict),
            ]
            for here, there in zip(cpu, gpu, strict=True)
            if here.claim.item == item
        ]
        if rows:
            head = ["Claim", "Where", "The paper", "Here, on a CPU", "Verdict", "GPU"]
            parts += [f"**{item.capitalize()}**", "", table(head, rows), ""]
    return "\n".join(parts).rstrip()


def ours(judged: Judged) -> str:
    """The number that decided a claim; of several, the first that led to the verdict."""
    if judged.test.rule is None:
        return judged.test.untestable
    if judged.verdict is Verdict.NOT_RUN:
        return NOT_RUN
    if judged.vacuous:
        return judged.vacuous
    found = zip(judged.numbers, judged.verdicts, strict=True)
    number = next(number for (_, number), verdict in found if verdict is judged.verdict)
    assert number is not None  # noqa: S101 - it was judged
    held = sum(one is Verdict.REPRODUCED for one in judged.verdicts)
    several = f" ({held} of {len(judged.verdicts)} hold)" if len(judged.verdicts) > 1 else ""
    return f"{number.shown()}{several}; asked: {judged.test.rule.words()}"


def verdicts(cpu: Sequence[Judged]) -> str:
    """How many claims came out how, and which."""
    parts = []
    for verdict in Verdict:
        found = [one.claim for one in cpu if one.verdict is verdict]
        if found:
            parts += [f"**{verdict.capitalize()}: {len(found)} of {len(cpu)} claims**", ""]
            parts += [*(f"- {claim.statement} ({claim.source})" for claim in found), ""]
    return "\n".join(parts).rstrip()


def recipes(numbers: Mapping[str, Number], size: str, tests: Mapping[str, float]) -> str:
    """AUPRC of bf16 and what each recipe leaves of it, by architecture."""
    models = [f"{arch}-{size}" for arch in ARCHITECTURES]
    rows = [
        [
            "bf16, AUPRC",
            *(shown(numbers.get(f"grid.{model}.{BASELINE}.score")) for model in models),
        ]
    ]
    for recipe in QUANTIZED:
        cells = []
        for model in models:
            number = numbers.get(f"grid.{model}.{recipe}.ratio")
            p = tests.get(f"{model}.{recipe}")
            cells.append(shown(number) + ("" if p is None else f", p {p:.2g}"))
        rows.append([f"`{recipe}`", *cells])
    return table(["", *models], rows)


def named(numbers: Mapping[str, Number], names: Mapping[str, str], head: str) -> str:
    """One number a line, by what it is called here."""
    return table(
        [head, "estimate [95 %]"],
        [[title, shown(numbers.get(name))] for title, name in names.items()],
    )


def costs(kept: Mapping[str, Mapping[str, Result]], enumerated: Mapping[str, int]) -> str:
    """Cells and CPU minutes of every stage, and how many cells are missing."""
    rows = []
    for name, count in enumerated.items():
        found = kept.get(name, {})
        minutes = sum(one.cpu_s for one in found.values()) / 60
        rows.append([name, f"{len(found)} of {count}", f"{minutes:.1f}"])
    total = sum(one.cpu_s for of in kept.values() for one in of.values()) / 60
    cells = sum(len(of) for of in kept.values())
    rows.append(["all", f"{cells} of {sum(enumerated.values())}", f"{total:.1f}"])
    return table(["stage", "cells measured", "CPU minutes"], rows)
