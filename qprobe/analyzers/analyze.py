"""``qprobe.analyze``: from a model and its data to the layer, the cause and the remedy."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

from qprobe.analyzers.analysis import Analysis, Inputs, Request, Watcher
from qprobe.analyzers.analysis_file import Label, Place, info
from qprobe.analyzers.base import Subject
from qprobe.analyzers.depth import Depth
from qprobe.analyzers.rehearsal import rehearse
from qprobe.analyzers.report import Report
from qprobe.analyzers.unquantized import check_quantized
from qprobe.errors import InputError


def analyze(  # noqa: PLR0913 - each is a choice of the caller, and has a default
    subject: Subject,
    run: str | PathLike[str] | None = None,
    *,
    depth: Depth | str = Depth.NORMAL,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    verify: bool = False,
    steps: int | None = None,
    overwrite: bool = False,
) -> Report:
    """Find the layers of a quantized model that fail, why, and what helps.

    The command ``qprobe analyze`` does the same with a checkpoint; here a model is at hand. It is
    left as it was found.

    ``run``
        The run file, which ``qprobe plan`` and ``qprobe dashboard`` take; an analysis that was
        interrupted goes on there. Without it nothing is kept but the report.
    ``depth``
        ``"quick"`` (seconds), ``"normal"``, ``"thorough"`` or ``"exhaustive"``.
    ``only``, ``skip``
        Analyzers by name; ``qprobe list analyzers`` names them.
    ``verify``
        Try the remedies at the layers that fail; with ``steps`` also by training on, which takes a
        subject with a continuation.
    """
    advice = f"qprobe.convert(model, {subject.recipe.name!r}) makes them"
    check_quantized(subject.model, subject.name, advice)
    if steps is not None and not verify:
        raise InputError("steps say how remedies are verified; pass verify=True with them.")
    if steps is not None and subject.continuation is None:
        raise InputError(
            f"{subject.name} offers no training to go on with, which steps= needs; give the "
            "subject a continuation."
        )
    rehearse(subject)
    request = Request(
        depth=_depth(depth), only=tuple(only), skip=tuple(skip), verify=verify, steps=steps
    )
    label = Label(title=subject.name, recipe=subject.recipe.name)
    inputs = Inputs(subject=subject)
    if run is not None:
        return conduct(label, inputs, request, Place(Path(run), overwrite))
    with TemporaryDirectory(prefix="qprobe-") as folder:
        report = conduct(label, inputs, request, Place(Path(folder) / "analysis.qprobe"))
    return report.without_file()


def conduct(
    label: Label, inputs: Inputs, request: Request, place: Place, watcher: Watcher | None = None
) -> Report:
    """Carry out an analysis, or the rest of an interrupted one, and read its file.

    Where the same analysis of the same weights is finished there, it is only read.
    """
    request.check()
    about = info(label, inputs, request)
    place.check(about)
    if place.holds(about):
        return Report.read(place.file).measured_before()
    writer, known = place.writer(about)
    with writer:
        Analysis(
            inputs=inputs,
            request=request,
            writer=writer,
            known=known,
            watcher=watcher or Watcher(),
        ).run()
    return Report.read(place.file)


def _depth(name: Depth | str) -> Depth:
    if name not in list(Depth):
        raise InputError(f"depth is one of {', '.join(Depth)}; got {name!r}.")
    return Depth(name)
