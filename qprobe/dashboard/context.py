"""What a page is, and what it is told about the address that it was opened with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from dash import Dash

from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.query import Query, address


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The library, the address with the run and the baseline that it names, and the colours."""

    library: Library
    query: Query
    base_path: str = "/"
    dark: bool = False

    @classmethod
    def of(cls, app: Dash, library: Library, search: str | None) -> Self:
        """From what a callback knows."""
        path = str(app.config.requests_pathname_prefix)
        return cls(library=library, query=Query.parse(search), base_path=path)

    @property
    def runs(self) -> list[Run]:
        """Runs that can be read, the newest first."""
        readable = [run for run in self.library.runs() if run.problem is None]
        return sorted(readable, key=lambda run: (-run.created_s, run.name))

    @property
    def run(self) -> Run | None:
        """The run that the address names; without a name the one with the gravest findings."""
        name = self.query.text("run")
        if name:
            found = self.library.run(name)
            return found if found is not None and found.problem is None else None
        return _most_telling(self.runs)

    @property
    def baseline(self) -> Run | None:
        """The run that is pinned to compare with."""
        found = self.library.run(self.query.text("baseline"))
        return found if found is not None and found.problem is None else None

    def link(self, page: str, **values: str | Sequence[str] | None) -> str:
        """The address of another page, about the same runs unless told otherwise."""
        pinned = {"run": self.query.text("run"), "baseline": self.query.text("baseline")}
        return address(self.base_path.rstrip("/") + page, {**pinned, **values})


class Layout(Protocol):
    """Builds a page for an address."""

    def __call__(self, context: Context) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page: where it is, what it shows, and which callbacks fill it."""

    path: str
    title: str
    sign: str
    layout: Layout
    register: Callable[[Dash, Library], None]


def _most_telling(runs: Sequence[Run]) -> Run | None:
    """The newest of those with the most findings; of those without any, the newest."""
    return max(runs, key=lambda run: (len(run.findings), run.created_s), default=None)
