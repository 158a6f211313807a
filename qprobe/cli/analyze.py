"""``qprobe analyze``: which layer breaks, why, and what helps."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qprobe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qprobe.analyzers.analysis import Request
    from qprobe.analyzers.analysis_file import Place
    from qprobe.analyzers.depth import Depth
    from qprobe.analyzers.report import Report
    from qprobe.cli.analysis_inputs import Given
    from qprobe.records import Finding, Severity

_INTERRUPTED = 130
_MANY = "Repeat it for several."


def analyze(  # noqa: PLR0913  (one for each part of the question)
    path: Annotated[
        Path | None,
        typer.Argument(metavar="INPUT", help="A checkpoint or its folder.", show_default=False),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="Run this code: a function that returns a qprobe.Subject.",
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="See `qprobe list recipes`.")] = None,
    layers: Annotated[str | None, typer.Option(help="mid or all.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The .qprobe file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write one HTML file too.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ANALYZER", help=f"Ask this one. {_MANY}")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="ANALYZER", help=f"Leave this one out. {_MANY}")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Screen layers: seconds.")] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="All layers, pairs and curvature: minutes.")
    ] = False,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Measure all layers, without a race.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Try the remedies at the layers that fail.")
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="With --verify: train N steps with each remedy too."),
    ] = None,
    fail_on: Annotated[
        str | None, typer.Option(metavar="critical|warn", help="Exit 1 if there is such a finding.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="A stored analysis: exit 1 if anything became worse.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> int:
    """Find the layers that fail in four bits, why, and what helps.

    INPUT is a checkpoint of `qprobe train`, whose model and data are rebuilt, or weights: a state
    dict, .safetensors, packed. Ctrl-C keeps what was measured; the same command goes on.
    """
    import torch

    from qprobe.analyzers.analysis import Request
    from qprobe.analyzers.analysis_file import Place
    from qprobe.cli.analysis_inputs import given, with_continuation
    from qprobe.cli.baseline import unlike, worse_than

    threshold = _threshold(fail_on)
    before = _before(html, baseline)
    depth = _depth(quick=quick, thorough=thorough, exhaustive=exhaustive)
    if steps is not None and not verify:
        raise InputError("--steps says how remedies are verified; give it with --verify.")
    request = Request(
        depth=depth, only=tuple(only or ()), skip=tuple(skip or ()), verify=verify, steps=steps
    )
    if threads is not None:
        torch.set_num_threads(threads)
    what = given(path, subject, recipe, layers)
    if steps is not None:
        what = with_continuation(what)
    file = out or what.place.with_name(f"{what.place.name}.qprobe")
    report = _run(what, request, Place(file, overwrite), quiet=quiet or as_json)
    if report is None:
        return _INTERRUPTED
    worse = [] if before is None else worse_than(before, report.findings)
    apart = None if baseline is None else unlike(baseline, report.meta.config)
    if apart is not None:
        what = replace(what, notes=(*what.notes, apart))
    if html is not None:
        _html(file, html)
    if as_json or not quiet:
        _show(what, report, (worse, before or []), as_json=as_json)
    failed = _failed(report.findings, threshold)
    return 1 if failed or worse else 0


def _failed(findings: "Sequence[Finding]", threshold: "Severity | None") -> bool:
    """Whether anything is as grave as that; the gravest is named, as the verdict may be of others.

    A training may lose its gradients in a model whose score does not suffer.
    """
    grave = [one for one in findings if threshold is not None and one.severity.reaches(threshold)]
    if grave:
        more = f", and {len(grave) - 1} more" if len(grave) > 1 else ""
        print(f"--fail-on {threshold}: {grave[0].claim}{more}.", file=sys.stderr)
    return bool(grave)


def _run(what: "Given", request: "Request", place: "Place", *, quiet: bool) -> "Report | None":
    """The report; nothing after Ctrl-C, when the file keeps what there was."""
    from qprobe.analyzers.analyze import conduct
    from qprobe.cli.analysis_progress import Bar, watcher

    watching = None if quiet else watcher()
    try:
        return conduct(what.label, what.inputs, request, place, watching)
    except KeyboardInterrupt:
        print(
            f"Saved what was measured in {place.file}; the same command goes on.", file=sys.stderr
        )
        return None
    finally:
        if isinstance(watching, Bar):
            watching.close()


def _depth(*, quick: bool, thorough: bool, exhaustive: bool) -> "Depth":
    from qprobe.analyzers.depth import Depth

    asked = [
        depth
        for depth, wanted in (
            (Depth.QUICK, quick), (Depth.THOROUGH, thorough), (Depth.EXHAUSTIVE, exhaustive),
        )
        if wanted
    ]  # fmt: skip
    if len(asked) > 1:
        raise InputError(f"--{asked[0]} and --{asked[1]} exclude each other; give one.")
    return asked[0] if asked else Depth.NORMAL


def _threshold(fail_on: str | None) -> "Severity | None":
    from qprobe.records import Severity

    if fail_on is None:
        return None
    if fail_on not in (Severity.WARN, Severity.CRITICAL):
        raise InputError(f"--fail-on is 'critical' or 'warn', got {fail_on!r}.")
    return Severity(fail_on)


def _before(html: Path | None, baseline: Path | None) -> "list[Finding] | None":
    """The findings of a baseline; what would stop the end is told before anything is measured."""
    from qprobe.cli.baseline import stored

    if html is not None:
        from qprobe.dashboard import check_installed

        check_installed()
        _check_html(html)
    return None if baseline is None else stored(baseline)


def _check_html(html: Path) -> None:
    """Refuse a place where no report can be written, before what it is of is measured."""
    if html.is_dir():
        raise InputError(f"{html} is a folder; name the HTML file in it.")
    if not html.absolute().parent.is_dir():
        raise InputError(f"there is no folder {html.parent} for {html.name}; make it first.")
    if not os.access(html if html.exists() else html.absolute().parent, os.W_OK):
        raise InputError(f"{html} cannot be written; choose another place for the report.")


def _html(file: Path, html: Path) -> None:
    from qprobe.dashboard.library import Library
    from qprobe.dashboard.report import write

    write(Library([file]), html)


def _show(
    what: "Given",
    report: "Report",
    compared: "tuple[list[Finding], list[Finding]]",
    *,
    as_json: bool,
) -> None:
    """On standard output; ``compared`` are findings that are worse, and those of the baseline."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.text import Text

    from qprobe.cli.baseline import sentence

    label, (worse, before) = what.label, compared
    if as_json:
        facts = {
            "file": report.file, "title": label.title, "recipe": label.recipe,
            "layers": label.layers, "source": label.source,
            "score": report.meta.config["score"], "notes": list(what.notes),
            "worse": [asdict(one) for one in worse],
        }  # fmt: skip
        print(report.json(facts))
        return
    told = [f"Worse than the baseline: {sentence(one, before)}." for one in worse]
    if not sys.stdout.isatty():
        print("\n".join([report.text(what.notes), *told]))
        return
    console = Console(highlight=False)
    # Commands are copied: a narrow terminal must not cut them.
    console.print(report.lines(what.notes), crop=False)
    for line in told:
        console.print(Text(line, style="bold red"))
