"""Several files read as one, by an index that says which tensor lies in which."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from torch import Tensor

from qprobe.checkpoints.legible import legible
from qprobe.checkpoints.source import Entry, Source
from qprobe.errors import InputError
from qprobe.records.schema import Json

_LARGEST = 64 * 2**20


class Shards:
    """The tensors of an index, each in its own shard."""

    def __init__(self, where: Mapping[str, Source]) -> None:
        self._where = dict(where)
        self.entries: Mapping[str, Entry] = {
            name: source.entries[name] for name, source in self._where.items()
        }
        self.files = tuple(sorted({file for s in self._where.values() for file in s.files}))

    def read(self, name: str) -> Tensor:
        """The tensor as it is stored."""
        return self._where[name].read(name)


def read(index: Path, open_: Callable[[Path], Source]) -> tuple[Shards, list[str]]:
    """The shards that ``index`` (``*.index.json``) names, all opened; and notes."""
    table = _weight_map(index)
    shards: dict[str, Source] = {}
    for shard in sorted(set(table.values())):
        _check_name(index, shard)
        if not (index.parent / shard).is_file():
            raise InputError(
                f"{index} names the shard {shard!r}, which is not beside it; download it again."
            )
        shards[shard] = open_(index.parent / shard)
    for name, shard in table.items():
        if name not in shards[shard].entries:
            raise InputError(
                f"{index} says that {name!r} is in {shard!r}, which does not have it; index and "
                "shards are of different checkpoints."
            )
    extra = [n for s, source in shards.items() for n in source.entries if table.get(n) != s]
    notes = (
        [f"in the shards but not in the index: {', '.join(sorted(map(legible, extra)))}"]
        if extra
        else []
    )
    return Shards({name: shards[shard] for name, shard in table.items()}), notes


def read_json(path: Path) -> dict[str, Json]:
    """A JSON object of at most 64 MiB."""
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise InputError(f"{path} has {size:,} bytes, at most {_LARGEST:,} are read.")
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not readable JSON ({error}); download it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not an object; replace it.")
    return content


def _weight_map(index: Path) -> dict[str, str]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise InputError(f"{index} has no weight_map; it is not an index of shards.")
    found = {}
    for name, shard in table.items():
        if not isinstance(shard, str):
            raise InputError(f"{index} maps {name!r} to {shard!r}, not to the name of a file.")
        found[name] = shard
    return found


def _check_name(index: Path, shard: str) -> None:
    """A shard lies beside its index: no path leads elsewhere."""
    if PurePosixPath(shard).name != shard or "\\" in shard or "\0" in shard or shard == "..":
        raise InputError(
            f"{index} names the shard {shard!r} outside its own folder, which is not opened; "
            "shards lie beside their index."
        )
