"""Which run file is meant by a folder, or by a checkpoint that is no run."""

from pathlib import Path

from qprobe.errors import InputError
from qprobe.records import open as open_run

#: What files of weights are called.
_WEIGHTS = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors"})
#: The run of a training, in its folder.
_TRAINING = "run.qprobe"
_NAMED = 3


def run_of(place: Path) -> Path:
    """The run at ``place``: a folder's own training, whatever analyses lie beside it, or the only
    run below it; of several, none is."""
    if not place.is_dir():
        return _no_weights(place)
    if (place / _TRAINING).is_file():
        return place / _TRAINING
    found = sorted(place.rglob("*.qprobe"))
    if len(found) != 1:
        which = f"holds {len(found)} runs, such as {found[0]}" if found else "holds no run"
        raise InputError(f"{place} {which}; name one .qprobe file.")
    return found[0]


def analysis_of(place: Path) -> Path:
    """The analysis at ``place``: a file as it is, or the only one of a model in that folder."""
    if not place.is_dir():
        return _no_weights(place)
    found = [path for path in sorted(place.glob("*.qprobe")) if _is_of_a_model(path)]
    if not found:
        raise InputError(
            f"{place} holds no analysis of a model with data; make one with 'qprobe analyze' and "
            "name its .qprobe file."
        )
    if len(found) > 1:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        names = ", ".join(path.name for path in found[:_NAMED])
        raise InputError(f"{place} holds several analyses ({names}{more}); name one of them.")
    return found[0]


def _is_of_a_model(path: Path) -> bool:
    with open_run(path) as reader:
        meta = reader.meta
    return meta.config.get("kind") == "analysis" and meta.recipe is not None


def _no_weights(place: Path) -> Path:
    if place.suffix in _WEIGHTS and place.is_file():
        raise InputError(
            f"{place} holds weights and is no run; 'qprobe analyze {place}' makes a .qprobe file "
            "of them, which is what to name here."
        )
    return place
