"""What ``qprobe analyze`` was given: a checkpoint of ours, stored weights, or any own model."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

from qprobe import checkpoints
from qprobe.analyzers.analysis import Inputs
from qprobe.analyzers.analysis_file import Label
from qprobe.analyzers.base import Subject
from qprobe.analyzers.own_code import tried
from qprobe.analyzers.rehearsal import rehearse
from qprobe.analyzers.unquantized import check_quantized
from qprobe.checkpoints import Checkpoint, Kind
from qprobe.cli.analysis_trainings import holds_trainings, trainings_of
from qprobe.engine import reopen
from qprobe.engine.continuation import Continuation
from qprobe.engine.folder import LAST
from qprobe.engine.subject import subject_of
from qprobe.errors import InputError
from qprobe.quant import convert
from qprobe.quant import recipe as named

#: What a model that was trained in high precision is judged under, unless told.
DEFAULT = "nvfp4"
_ADVICE = "give the model and its data with --subject file.py:make_subject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The inputs of an analysis, and how to call them."""

    inputs: Inputs
    label: Label
    #: Where the report goes unless told, without the ending.
    place: Path
    #: What a person should know of the inputs.
    notes: tuple[str, ...] = ()


def given(path: Path | None, subject: str | None, recipe: str | None, layers: str | None) -> Given:
    """Open what was named on the command line."""
    if recipe is not None:
        named(recipe)  # an unknown name is told before anything is loaded
    if layers not in (None, "mid", "all"):
        raise InputError(f"--layers is 'mid' or 'all', got {layers!r}.")
    if path is not None and subject is None and holds_trainings(path):
        return _of_trainings(path, recipe or layers)
    opened = None if path is None else _opened(path)
    if subject is not None:
        return _of_subject(subject, opened, recipe, layers)
    if opened is None:
        raise InputError(f"there is nothing to analyze: name a checkpoint, or {_ADVICE}.")
    if opened.kind is Kind.QPROBE:
        return _of_training(opened, recipe, layers)
    if recipe is not None or layers is not None:
        option = "--recipe" if recipe is not None else "--layers"
        raise InputError(
            f"{opened.path} holds weights without their model, so {option} cannot be applied; "
            f"{_ADVICE}."
        )
    name = path.resolve().name if path is not None and path.is_dir() else opened.path.name
    index = opened.path.name.partition(".index.json")
    shards = f"{opened.path.resolve().parent.name}, {len(opened.source.files)} shards"
    return Given(
        inputs=Inputs(checkpoint=opened, lacking=f"weights alone; {_ADVICE}"),
        label=Label(title=shards if index[1] else name, source=opened.sha256),
        place=opened.path.with_name(f"{Path(index[0]).stem}-weights"),
        notes=opened.notes,
    )


def _of_trainings(folder: Path, option: str | None) -> Given:
    """The recipes of a folder of trainings."""
    if option is not None:
        raise InputError(
            f"{folder} holds trainings, so {option!r} cannot be applied; name the best.pt of one."
        )
    trainings, notes = trainings_of(folder)
    return Given(
        inputs=Inputs(
            trainings=trainings, lacking="a folder of trainings; name the best.pt of one of them"
        ),
        label=Label(title=folder.name or str(folder)),
        place=folder / "recipes",
        notes=notes,
    )


def with_continuation(what: Given) -> Given:
    """The same, with what a person should know of its training; refused where there is none."""
    subject = what.inputs.subject
    if subject is None or subject.continuation is None:
        raise InputError(
            f"{what.label.title} offers no training to go on with, which --steps needs; give a "
            "qprobe checkpoint, or a subject with a continuation (see qprobe.Subject)."
        )
    training = subject.continuation
    if not isinstance(training, Continuation) or training.resumes:
        return what
    note = (
        f"{training.path.name} holds no optimizer state, so short runs begin with a new optimizer; "
        f"{LAST} holds it"
    )
    return replace(what, notes=(*what.notes, note))


def _opened(path: Path) -> Checkpoint:
    if not path.exists():
        raise InputError(f"there is no {path}; name a checkpoint or its folder.")
    return checkpoints.open(path)


def _of_training(opened: Checkpoint, recipe: str | None, layers: str | None) -> Given:
    bench = reopen(opened.path)
    notes = opened.notes
    if recipe is None and bench.config.recipe == "bf16":
        recipe = DEFAULT
        notes += (f"trained in bf16, so judged under {DEFAULT}; choose with --recipe",)
    training = Continuation(bench=bench, path=opened.path)
    subject = replace(subject_of(bench, recipe=recipe, layers=layers), continuation=training)
    run = opened.metadata.get("run")
    name = subject.recipe.name
    return Given(
        inputs=Inputs(subject=subject, checkpoint=opened),
        label=Label(
            title=subject.name,
            recipe=name,
            layers=layers or bench.config.layers,
            source=" ".join(str(one) for one in (opened.sha256, run) if one),
        ),
        place=opened.path.with_name(f"{opened.path.stem}-{name}"),
        notes=notes,
    )


def _of_subject(
    reference: str, opened: Checkpoint | None, recipe: str | None, layers: str | None
) -> Given:
    file, make = _factory(reference)
    print(f"running your code: {reference}", file=sys.stderr, flush=True)
    subject = _made(reference, make)
    if opened is not None:
        checkpoints.load_into(subject.model, opened)
    done = None
    if recipe is not None or layers is not None:
        rule = named(recipe) if recipe else subject.recipe
        done = convert(subject.model, rule, layers or "mid")  # type: ignore[arg-type]
        subject = replace(subject, recipe=rule)
    advice = "name a recipe with --recipe, or convert it in the function"
    check_quantized(subject.model, f"the model of {reference}", advice, done)
    rehearse(subject)
    name = subject.recipe.name
    return Given(
        inputs=Inputs(subject=subject, checkpoint=opened),
        label=Label(
            title=subject.name,
            recipe=name,
            layers=layers,
            source=None if opened is None else opened.sha256,
        ),
        place=Path(f"{file.stem}-{name}")
        if opened is None
        else opened.path.with_name(f"{opened.path.stem}-{name}"),
        notes=() if opened is None else opened.notes,
    )


def _factory(reference: str) -> tuple[Path, Callable[[], object]]:
    name, _, attribute = reference.rpartition(":")
    file = Path(name)
    if not name or not attribute or file.suffix != ".py":
        raise InputError(f"--subject is file.py:function, got {reference!r}.")
    if not file.is_file():
        raise InputError(f"--subject {reference}: there is no file {file}.")
    found = getattr(_module(reference, file), attribute, None)
    if not callable(found):
        raise InputError(f"--subject {reference}: {file} has no function {attribute!r}.")
    return file, found


def _module(reference: str, file: Path) -> ModuleType:
    """The user's file, imported as Python would import it from its own folder."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise InputError(f"--subject {reference}: {file} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    execute = partial(spec.loader.exec_module, module)
    sys.path.insert(0, str(file.resolve().parent))
    try:
        sys.modules[spec.name] = module
        tried(f"--subject {reference}", execute, "on import")
    finally:
        sys.path.pop(0)
    return module


def _made(reference: str, make: Callable[[], object]) -> Subject:
    subject = tried(f"--subject {reference}", make)
    if not isinstance(subject, Subject):
        raise InputError(
            f"--subject {reference}: it returned an object of type "
            f"{type(subject).__name__}; return a qprobe.Subject."
        )
    return subject
