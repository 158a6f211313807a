"""Open any checkpoint: by what is in it, never by what it is called."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from qprobe.checkpoints import shards, state
from qprobe.checkpoints.checkpoint import Checkpoint, Kind
from qprobe.checkpoints.safetensors_file import SafetensorsFile
from qprobe.checkpoints.source import Source
from qprobe.errors import InputError
from qprobe.records.schema import Json

_INDEX = ".index.json"
#: What a folder is opened by, the first that is there.
_IN_FOLDERS = (
    "*.safetensors.index.json",
    "*.safetensors",
    "*.bin.index.json",
    "pytorch_model*.bin",
    "best.pt",
    "last.pt",
)
#: How files of others begin, for a message that says what they are.
_OTHERS = {
    b"GGUF": "a GGUF file; convert it to .safetensors",
    b"\x89HDF": "an HDF5 file; save the weights as .safetensors",
    b"\x93NUM": "a NumPy array; save the weights as .safetensors",
    b"SQLi": "a SQLite file, perhaps a .qprobe run, which the dashboard opens",
}


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint without executing anything in it.

    ``path`` is a file of ``torch.save``, a ``.safetensors`` file, an index of shards, or a folder
    of one of them: a Hugging Face model, or a qprobe training, whose ``best.pt`` is taken.

    Tensors are mapped, so memory does not grow with the file; the checksums of a PyTorch file are
    compared, which reads it once, piece by piece. What cannot be used is refused with an
    :class:`~qprobe.errors.InputError` of one sentence.
    """
    given = Path(path)
    try:
        if given.is_dir():
            given = _in_folder(given)
        if not stat.S_ISREG(given.stat().st_mode):
            raise InputError(f"{given} is no file; give a file or a folder of weights.")
        notes: list[str] = []
        if given.name.endswith(_INDEX):
            source: Source
            source, notes = shards.read(given, _source)
        else:
            source = _source(given)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{given} cannot be opened: {reason}.") from error
    return _described(given, source, notes)


def _described(path: Path, source: Source, notes: list[str]) -> Checkpoint:
    """With what the file, and the files beside it, say of the weights."""
    metadata: dict[str, Json] = {}
    kind = Kind.SAFETENSORS
    if isinstance(source, state.State):
        kind = Kind.QPROBE if source.ours else Kind.STATE_DICT
        metadata |= source.metadata
        notes += source.notes
    elif isinstance(source, SafetensorsFile):
        metadata |= source.metadata
    elif not path.name.endswith(".safetensors.index.json"):
        kind = Kind.STATE_DICT
    if kind is not Kind.QPROBE:
        metadata |= _beside(path, notes)
    return Checkpoint(
        path=path,
        kind=kind,
        source=source,
        metadata=metadata,
        quantization=_quantization(metadata),
        notes=tuple(notes),
    )


def _beside(path: Path, notes: list[str]) -> dict[str, Json]:
    """``config.json`` and ``hf_quant_config.json`` of a Hugging Face folder, where there are."""
    found: dict[str, Json] = {}
    for name in ("config.json", "hf_quant_config.json"):
        file = path.parent / name
        if not file.is_file():
            continue
        try:
            found[name] = shards.read_json(file)
        except InputError as error:
            notes.append(f"not used: {error}")
    return found


def _quantization(metadata: Mapping[str, Json]) -> dict[str, Json]:
    for file, key in (
        ("config.json", "quantization_config"),
        ("hf_quant_config.json", "quantization"),
    ):
        config = metadata.get(file)
        section = config.get(key) if isinstance(config, dict) else None
        if isinstance(section, dict):
            return section
    return {}


def in_folder(folder: Path) -> Path | None:
    """What a folder is opened by; None where it has no weights itself."""
    for pattern in _IN_FOLDERS:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:4])
            raise InputError(
                f"{folder} has {len(found)} files {pattern} ({names}) and no index that joins "
                "them; give one of them."
            )
        if found:
            return found[0]
    return None


def _in_folder(folder: Path) -> Path:
    found = in_folder(folder)
    if found is not None:
        return found
    inside = [f.name for f in sorted(folder.iterdir()) if f.is_dir() and _any_in(f)]
    where = f"name one of its folders {', '.join(inside)}" if inside else "give the file itself"
    raise InputError(
        f"{folder} has no weights: no .safetensors, index of shards, pytorch_model.bin or best.pt; "
        f"{where}."
    )


def _any_in(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in _IN_FOLDERS)


def _source(path: Path) -> Source:
    """One file, told by its first bytes."""
    with path.open("rb") as file:
        head = file.read(9)
    if not head:
        raise InputError(f"{path} is empty; take another copy of it.")
    if head.startswith(b"PK"):
        return state.read(path)
    if len(head) == 9 and head[8:] == b"{":
        return SafetensorsFile(path)
    if head.startswith(b"\x80"):
        raise InputError(
            f"{path} is a bare pickle, as PyTorch wrote before version 1.6; where you trust it, "
            "load it there and save it again as .safetensors."
        )
    other = _OTHERS.get(
        head[:4],
        "no checkpoint: it begins neither as .safetensors nor as a file "
        "of torch.save; give one of these",
    )
    raise InputError(f"{path} is {other}.")
