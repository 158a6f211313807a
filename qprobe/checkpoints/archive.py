"""Files of ``torch.save``: checked before anything in them is believed, then mapped, not read."""

import pickle
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qprobe.checkpoints import pickled
from qprobe.checkpoints.legible import first_line, legible
from qprobe.errors import InputError

_SAFE_WAY = (
    "save the weights alone, by safetensors.torch.save_file(model.state_dict(), "
    '"model.safetensors"), and open that'
)


def load(path: Path) -> Any:
    """The content of ``path``: plain values, and tensors that are read when they are used.

    Nothing in the file is executed: every type it asks for is known to be harmless beforehand, and
    ``weights_only=True`` stands behind that. Members have to lie in the file as they are, so that
    nothing grows when it is opened; their checksums are compared, one piece at a time.
    """
    _check_types(path, _check_members(path))
    try:
        with warnings.catch_warnings():
            # What PyTorch warns of while it describes a damaged file is in its message too.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = legible(asked[1]) if asked else "instructions that build no plain data"
        raise InputError(_refusal(path, what)) from error
    # What a pickle of nonsense can raise, from PyTorch's rebuilding of tensors among them.
    except (
        *(RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError),
        *(AssertionError, MemoryError, OverflowError, ArithmeticError, struct.error),
    ) as error:
        raise InputError(
            f"{path} cannot be read as a PyTorch file: {first_line(error)}."
        ) from error
    return content


def check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that claims more elements than its file holds for it."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise InputError(
            f"{path} stores {name!r} as a {tensor.layout} tensor of {tensor.dtype}; save a dense "
            "one of plain numbers."
        )
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > held:
        raise InputError(
            f"{path} stores {held:,} bytes for {name!r}, whose shape {list(tensor.shape)} of "
            f"{tensor.dtype} needs {tensor.numel() * tensor.element_size():,}: an expanded or "
            "damaged tensor; save it with .contiguous()."
        )


def _check_members(path: Path) -> bytes:
    """The pickle of a whole, uncompressed archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_sizes(path, members)
            named = [m for m in members if m.filename.rpartition("/")[2] == "data.pkl"]
            if len(named) != 1:
                raise InputError(
                    f"{path} is a zip archive with {len(named)} data.pkl, so not a file of "
                    "torch.save; give a state dict or a .safetensors file."
                )
            if named[0].file_size > pickled.LARGEST:
                raise InputError(
                    f"{path} has a table of contents of {named[0].file_size:,} bytes, at most "
                    f"{pickled.LARGEST:,} are read; {_SAFE_WAY}."
                )
            if any(m.filename.rpartition("/")[2] == "constants.pkl" for m in members):
                raise InputError(f"{path} is a TorchScript program, which is code; {_SAFE_WAY}.")
            damaged = archive.testzip()
            if damaged is not None:
                raise InputError(
                    f"{path} is damaged at {legible(damaged)}; take another copy of it."
                )
            return archive.read(named[0])
    except (
        *(zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError, NotImplementedError),
        *(struct.error, OverflowError, LookupError, UnicodeError),
    ) as error:
        raise InputError(
            f"{path} is cut short or damaged ({first_line(error)}); take another copy of it."
        ) from error


def _check_sizes(path: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise InputError(
                f"{path} has {legible(member.filename)} compressed or encrypted, which torch.save "
                "never does; load and save it again with PyTorch."
            )
    claimed, size = sum(m.file_size for m in members), path.stat().st_size
    if claimed > size:
        raise InputError(
            f"{path} claims {claimed:,} bytes of content in a file of {size:,}; take another copy "
            "of it, from somebody you trust."
        )


def _check_types(path: Path, pickle_: bytes) -> None:
    try:
        asked = pickled.refused(pickle_)
    except (ValueError, LookupError, struct.error) as error:
        raise InputError(
            f"{path} has no readable table of contents: {first_line(error)}."
        ) from error
    if asked:
        raise InputError(_refusal(path, ", ".join(map(legible, asked))))


def _refusal(path: Path, what: str) -> str:
    return f"{path} asks to run {what}, which no weights need, and is not loaded; {_SAFE_WAY}."
