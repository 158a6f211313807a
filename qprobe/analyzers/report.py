"""The report of one analysis: what was found, to print, to show in a notebook, to compute with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any, Self

from rich.console import Console, RenderableType

from qprobe import records
from qprobe.analyzers.rendering import as_json, render
from qprobe.analyzers.view import Subtitle, View, coverage, view
from qprobe.records import Finding, Meta, Record

#: Columns of a report that is text.
_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Report:
    """What an analysis found, as its file has it."""

    view: View
    #: The gravest first.
    findings: tuple[Finding, ...]
    records: tuple[Record, ...]
    meta: Meta
    #: The run file; None where it was not kept.
    file: Path | None
    #: Whether it was there already, and nothing was measured.
    stored: bool = False

    @classmethod
    def read(cls, file: Path) -> Self:
        """The report of a stored analysis; nothing is measured again."""
        with records.open(file) as run:
            meta, found = run.meta, tuple(run.findings())
            measured = tuple(run.records())
        about = Subtitle(
            title=_text(meta.config.get("title")) or file.name,
            recipe=meta.recipe,
            score=_text(meta.config.get("score")),
        )
        return cls(
            view=view(about, measured, found),
            findings=found,
            records=measured,
            meta=meta,
            file=file,
        )

    @property
    def problem(self) -> bool:
        """Whether four bits surely cost something worth a warning."""
        return self.view.problem

    @property
    def verdict(self) -> str:
        """One sentence."""
        return self.view.verdict

    def without_file(self) -> Self:
        """The same, of a file that is not kept."""
        return replace(self, file=None)

    def measured_before(self) -> Self:
        """The same, of a file that was there already."""
        return replace(self, stored=True)

    def lines(self, notes: tuple[str, ...] = ()) -> RenderableType:
        """For a console of rich; with ``notes`` on what was analyzed."""
        config = self.meta.config
        layers = _text(config.get("layers"))
        parts = (
            _text(config.get("title")),
            self.meta.recipe,
            layers and f"layers {layers}",
            coverage(self.records),
            "measured before (--overwrite measures again)" if self.stored else None,
        )
        return render(self.view, ", ".join(filter(None, parts)), self.file, notes)

    def json(self, facts: Mapping[str, Any]) -> str:
        """Everything, and ``facts``, for machines."""
        return as_json(self.view, self.findings, facts)

    def __str__(self) -> str:
        return self.text()

    def text(self, notes: tuple[str, ...] = ()) -> str:
        """The same as :meth:`lines` for a pipe or a file."""
        console = Console(file=StringIO(), width=_WIDTH, highlight=False)
        with console.capture() as printed:
            console.print(self.lines(notes), crop=False)
        return "\n".join(line.rstrip() for line in printed.get().splitlines())

    def __repr__(self) -> str:
        return f"<Report: {self.verdict}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def _text(value: object) -> str | None:
    return None if value is None else str(value)
