"""A checkpoint that is open: what it holds, and its weights one at a time."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from torch import Tensor

from qprobe.checkpoints import layouts
from qprobe.checkpoints.layouts import Weight
from qprobe.checkpoints.packed import Layout, PackedWeight
from qprobe.checkpoints.scaled import decode
from qprobe.checkpoints.source import Source
from qprobe.checkpoints.unpack import unpack
from qprobe.errors import InputError
from qprobe.records.schema import Json


class Kind(StrEnum):
    """What was opened."""

    QPROBE = "qprobe checkpoint"
    """``best.pt`` or ``last.pt`` of a training: it says how to rebuild model and data."""
    STATE_DICT = "PyTorch state dict"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Weights that are read when they are asked for; nothing stays in memory.

    >>> import tempfile
    >>> import torch
    >>> from qprobe import checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "model.pt"
    ...     torch.save(torch.nn.Linear(3, 2).state_dict(), path)
    ...     opened = checkpoints.open(path)
    ...     print(opened.kind, {name: w.shape for name, w in opened.weights.items()})
    PyTorch state dict {'weight': (2, 3), 'bias': (2,)}
    """

    path: Path
    kind: Kind
    #: What is stored, tensor by tensor.
    source: Source
    #: Settings, counters and texts beside the weights: a qprobe checkpoint's ``config``, a Hugging
    #: Face folder's ``config.json``, the metadata of a ``.safetensors`` file.
    metadata: Mapping[str, Json] = field(default_factory=dict)
    #: What the checkpoint says of its quantization; empty where it says nothing.
    quantization: Mapping[str, Json] = field(default_factory=dict)
    #: What was unwrapped, renamed or left aside, in sentences for people.
    notes: tuple[str, ...] = ()

    @cached_property
    def weights(self) -> Mapping[str, Weight]:
        """The weights by their names in the model; a packed one counts once."""
        return layouts.find(self.source.entries, self.quantization)

    @property
    def packed(self) -> frozenset[Layout]:
        """The layouts of packed weights that occur."""
        return frozenset(w.layout for w in self.weights.values()) - {Layout.DENSE}

    def read(self, name: str) -> Tensor | PackedWeight:
        """A weight by its name in the model: as it is stored, or its codes and scales.

        Eight bits beside a scale are read as the numbers they stand for.
        A tensor may be a view of the file: do not write to it.
        """
        if name not in self.weights:
            raise InputError(f"{self.path} has no weight {name!r}; it has {len(self.weights)}.")
        weight = self.weights[name]
        if weight.layout is Layout.DENSE:
            return self.source.read(next(iter(weight.parts.values())))
        parts = {part: self.source.read(stored) for part, stored in weight.parts.items()}
        try:
            if weight.layout is Layout.SCALED:
                return decode(weight, parts)
            return unpack(weight, parts, self.quantization)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, read piece by piece; of several, of the list of theirs."""
        digests = []
        for file in self.source.files:
            with file.open("rb") as content:
                digests.append(hashlib.file_digest(content, "sha256").hexdigest())
        if len(digests) == 1:
            return digests[0]
        lines = [f"{d}  {f.name}\n" for d, f in zip(digests, self.source.files, strict=True)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
