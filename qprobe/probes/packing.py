"""Any states as one tensor of bytes, so that one copy brings all of them to the host.

States are whatever probes made them. Pickling walks through them, and each tensor that it meets is
taken out and put in a row; what is left, a few hundred bytes, never was on the device.
"""

import io
import pickle
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

#: Every tensor begins at a multiple of this, as the widest type asks for.
_ALIGNED = 16
_EMPTY = torch.empty(0, dtype=torch.uint8)


class _Place(NamedTuple):
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """Objects without their tensors, and the bytes of these, uint8 ``[bytes]`` on their device."""

    skeleton: bytes
    data: Tensor

    def to_host(self) -> "Packed":
        """The same with its bytes in the host's memory: one copy."""
        return Packed(skeleton=self.skeleton, data=self.data.to("cpu"))

    @classmethod
    def from_bytes(cls, skeleton: bytes, data: bytes) -> Self:
        """What another process has packed."""
        copy = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else _EMPTY
        return cls(skeleton=skeleton, data=copy)

    def unpack(self) -> Any:
        """The objects again; their tensors share the memory of ``data``."""
        return _Unpickler(self.skeleton, self.data).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.parts: list[Tensor] = []
        #: With the tensors, so that none of them goes and leaves its id to another.
        self._seen: dict[int, tuple[_Place, Tensor]] = {}
        self._size = 0

    def persistent_id(self, obj: object) -> _Place | None:
        if not isinstance(obj, Tensor):
            return None
        known = self._seen.get(id(obj))
        if known is not None:
            return known[0]
        place = _Place(self._size, obj.dtype, tuple(obj.shape))
        self._seen[id(obj)] = place, obj
        flat = obj.detach().contiguous().reshape(-1).view(torch.uint8)
        padding = -len(flat) % _ALIGNED
        self.parts.append(torch.nn.functional.pad(flat, (0, padding)) if padding else flat)
        self._size += len(flat) + padding
        return place


class _Unpickler(pickle.Unpickler):
    def __init__(self, skeleton: bytes, data: Tensor) -> None:
        super().__init__(io.BytesIO(skeleton))
        self._data = data

    def persistent_load(self, pid: Any) -> Tensor:
        start, dtype, shape = pid
        size = prod(shape) * dtype.itemsize
        return self._data[start : start + size].view(dtype).view(shape)


def pack(objects: Any) -> Packed:
    """``objects`` with all tensors in them, gathered on the first device that is not the host.

    >>> packed = pack({"a": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)})
    >>> packed.data.shape, packed.unpack()
    (torch.Size([32]), {'a': tensor([1., 2.]), 'n': tensor(3)})
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(objects)
    parts = pickler.parts
    device = next((part.device for part in parts if part.device.type != "cpu"), "cpu")
    data = torch.cat([part.to(device, non_blocking=True) for part in parts]) if parts else _EMPTY
    return Packed(skeleton=file.getvalue(), data=data)


def on_host(objects: Any) -> Any:
    """``objects`` with their tensors in the host's memory, in one copy.

    They themselves where there is no other memory.
    """
    if not torch.accelerator.is_available():
        return objects
    packed = pack(objects)
    return packed.unpack() if packed.data.device.type == "cpu" else packed.to_host().unpack()
