"""The table of weights in what ``torch.save`` stored, whatever it is wrapped in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from qprobe.checkpoints import archive
from qprobe.checkpoints.legible import legible
from qprobe.checkpoints.source import Entry
from qprobe.errors import InputError
from qprobe.records.schema import Json

#: What marks a checkpoint of a qprobe training, which keeps its weights under ``model``.
QPROBE_FORMAT = "qprobe-checkpoint"
#: Where others keep their weights, in the order in which they are looked for.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
_PARALLEL = "module."
_COMPILED = "_orig_mod."
_DEEPEST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The weights of one PyTorch file, and what else it holds."""

    path: Path
    tensors: Mapping[str, Tensor]
    #: Settings, counters and texts beside the weights.
    metadata: Mapping[str, Json]
    #: What was unwrapped, renamed or left aside, in sentences.
    notes: tuple[str, ...]
    ours: bool

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What is stored, by name."""
        return {
            name: Entry(dtype=tensor.dtype, shape=tuple(tensor.shape))
            for name, tensor in self.tensors.items()
        }

    @property
    def files(self) -> tuple[Path, ...]:
        """Where it is stored."""
        return (self.path,)

    def read(self, name: str) -> Tensor:
        """The tensor as it is stored."""
        return self.tensors[name]


def read(path: Path) -> State:
    """The weights in a file of ``torch.save``, found and checked, their elements not yet read."""
    content = archive.load(path)
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} holds an object of type {type(content).__name__}, not a table of named "
            "weights; save model.state_dict()."
        )
    notes: list[str] = []
    table, wrapper = _unwrap(path, content, notes)
    tensors = _renamed(path, _tensors(path, table, notes), notes)
    if not tensors:
        raise InputError(f"{path} holds no tensors; save model.state_dict().")
    beside = {key: value for key, value in content.items() if key != wrapper} if wrapper else {}
    metadata = {str(key): json for key, value in beside.items() for json in _plain(value)}
    kept = {str(key) for key in beside} - metadata.keys()
    if kept and content.get("format") != QPROBE_FORMAT:
        notes.append(f"not looked at, since no weights: {', '.join(sorted(map(legible, kept)))}")
    return State(
        path=path,
        tensors=tensors,
        metadata=metadata,
        notes=tuple(notes),
        ours=content.get("format") == QPROBE_FORMAT,
    )


def _unwrap(
    path: Path, content: Mapping[Any, Any], notes: list[str]
) -> tuple[Mapping[Any, Any], str | None]:
    """The innermost table of weights, and the key of ``content`` it was found under."""
    first, table = None, content
    own = content.get("model")
    if content.get("format") == QPROBE_FORMAT and isinstance(own, Mapping):
        return own, "model"  # beside it are tensors that are no weights, such as random states
    for _ in range(_DEEPEST):
        if any(isinstance(value, Tensor) for value in table.values()):
            return table, first
        inside = [key for key in _WRAPPERS if isinstance(table.get(key), Mapping)]
        if not inside:
            keys = ", ".join(sorted(map(legible, table))[:8]) or "nothing"
            raise InputError(
                f"{path} holds no weights where they are looked for; it has {keys}; save "
                "model.state_dict() by itself."
            )
        if len(inside) > 1:
            notes.append(f"the weights under {inside[0]!r} are judged, not {inside[1:]}")
        else:
            notes.append(f"the weights lie under {inside[0]!r}")
        first, table = first or inside[0], table[inside[0]]
    raise InputError(
        f"{path} nests its weights more than {_DEEPEST} deep; save model.state_dict()."
    )


def _tensors(path: Path, table: Mapping[Any, Any], notes: list[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    others = []
    for name, value in table.items():
        if not isinstance(name, str):
            raise InputError(
                f"{path} names a weight {name!r}, of type {type(name).__name__}; names are text, "
                "as in model.state_dict()."
            )
        if isinstance(value, Tensor):
            archive.check_tensor(path, name, value)
            found[name] = value.detach()
        else:
            others.append(name)
    if others:
        notes.append(f"among the weights but no tensors: {', '.join(sorted(map(legible, others)))}")
    return found


def _renamed(path: Path, tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Names as the model has them, without what DistributedDataParallel and compile add."""
    names = {name: name.replace(_COMPILED, "") for name in tensors}
    if any(old != new for old, new in names.items()):
        notes.append(f"{_COMPILED!r} of torch.compile is left out of the names")
    if names and all(name.startswith(_PARALLEL) for name in names.values()):
        names = {old: new.removeprefix(_PARALLEL) for old, new in names.items()}
        notes.append(f"{_PARALLEL!r} of DistributedDataParallel is left out of the names")
    renamed = {new: tensors[old] for old, new in names.items()}
    if len(renamed) < len(tensors):
        twice = next(n for n in renamed if list(names.values()).count(n) > 1)
        raise InputError(f"{path} stores {twice!r} twice, compiled and not; keep one of them.")
    return renamed


def _plain(value: Any, depth: int = 0) -> list[Json]:
    """``[value]`` if it is numbers, texts and tables of them all the way down, else ``[]``."""
    if value is None or isinstance(value, bool | int | float | str):
        return [value]
    if depth == _DEEPEST:
        return []
    if isinstance(value, list | tuple):
        items = [_plain(item, depth + 1) for item in value]
        return [[item[0] for item in items]] if all(items) else []
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        table = {key: _plain(item, depth + 1) for key, item in value.items()}
        return [{key: item[0] for key, item in table.items()}] if all(table.values()) else []
    return []
