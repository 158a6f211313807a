"""Generated tensors on disk: made once, named by the hash of what determines them.

A file is written under another name and then moved into place, so two processes that generate the
same data at once do no harm and an interrupted one leaves nothing that looks finished. The digest
of the contents is stored beside them; a file that does not match it is made again.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_log = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]


def folder(chosen: Path | None = None) -> Path:
    """``chosen``, or ``qprobe`` in the user's cache folder (``XDG_CACHE_HOME``, ``~/.cache``)."""
    if chosen is not None:
        return chosen
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qprobe"


def key(facts: Mapping[str, object], sources: tuple[Path, ...]) -> str:
    """16 hexadecimal digits that change with any of the facts and with the text of any source."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]


def cached(path: Path, make: Callable[[], Tensors]) -> Tensors:
    """What ``path`` holds; generated and written there if it is absent or damaged."""
    try:
        if path.exists():  # which may ask a folder that must not be read
            return _read(path)
    # RuntimeError is how safetensors says that the file went away in the meantime.
    except (_DamagedError, SafetensorError, OSError, RuntimeError) as error:
        _log.warning("generating %s again: %s", path, error)
    tensors = make()
    try:
        _write(path, tensors)
    except (OSError, SafetensorError) as error:
        _log.warning(
            "the generated data is not kept and will be made again, since %s cannot be written "
            "(%s); choose another folder with the option 'cache'",
            path, error,
        )  # fmt: skip
    return tensors


class _DamagedError(ValueError):
    """The contents are not what was written."""


def _digest(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> Tensors:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if metadata.get("sha256") != _digest(tensors):
        raise _DamagedError("its contents do not match the digest stored with them")
    return tensors


def _write(path: Path, tensors: Tensors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        save_file(dict(tensors), name, metadata={"sha256": _digest(tensors)})
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
