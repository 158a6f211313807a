"""A ``.safetensors`` file: its header is checked when it is opened, a tensor is read when used."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qprobe.checkpoints.legible import first_line
from qprobe.checkpoints.source import Entry
from qprobe.errors import InputError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class SafetensorsFile:
    """One file; the library refuses headers whose offsets overlap, leave gaps or leave the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            opener: Any = safe_open  # its stubs leave out types
            self._file = opener(path, framework="pt", device="cpu")
            self.metadata: Mapping[str, str] = self._file.metadata() or {}
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{path} is not a whole .safetensors file ({first_line(error)}); take another copy."
            ) from error

    @property
    def files(self) -> tuple[Path, ...]:
        """Where it is stored."""
        return (self.path,)

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """What is stored, by name."""
        found = {}
        for name in self._file.keys():  # noqa: SIM118 - it is no mapping
            piece = self._file.get_slice(name)
            found[name] = Entry(
                dtype=_DTYPES.get(piece.get_dtype()), shape=tuple(piece.get_shape())
            )
        return found

    def read(self, name: str) -> Tensor:
        """The tensor as it is stored."""
        if self.entries[name].dtype is None:
            kind = self._file.get_slice(name).get_dtype()
            raise InputError(
                f"{self.path} stores {name!r} as {kind}, which PyTorch has not; convert it."
            )
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: {name!r} cannot be read: {first_line(error)}."
            ) from error
        return tensor
