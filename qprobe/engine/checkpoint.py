"""Checkpoints: one file that says what it is, is never half written, and loads as data only."""

import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qprobe.errors import InputError, QprobeError

FORMAT = "qprobe-checkpoint"
VERSION = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, text, lists and tables of them) to ``path`` at once.

    Whoever opens ``path`` finds the old file or the new one whole, also after a crash.
    """
    # One name, whoever writes: what a killed process leaves is overwritten by the next.
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint written by :func:`save`; nothing in it is executed."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint at {path}.")
    _check_whole(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {asked[1]}" if asked else "its contents are no plain data"
        raise InputError(
            f"{path} holds more than data and is not loaded: {reason}; only checkpoints of plain "
            "tensors, numbers and text are opened."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a readable checkpoint: {str(error).splitlines()[0]}."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a qprobe checkpoint, or not one for training.")
    version = content.get("version")
    if version != VERSION:
        raise InputError(
            f"{path} is a checkpoint of version {version}, this qprobe reads {VERSION}; "
            "use the qprobe that wrote it, or a newer one."
        )
    return content


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Refuse, by the name of its file, a state that those it is given to cannot take up."""
    try:
        yield
    except QprobeError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        told = [line.strip() for line in str(error).splitlines()]
        what = next((line for line in told if not line.endswith(":")), "") or type(error).__name__
        raise InputError(
            f"{path} is not what this training wrote ({what.rstrip('.')}); put that file back or "
            "choose another folder."
        ) from error


def _check_whole(path: Path) -> None:
    """Refuse a file that was cut short or changed: PyTorch does not look at the checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError) as error:
        raise InputError(
            f"{path} is not a checkpoint, or not a whole one ({error}); give a last.pt or best.pt."
        ) from error
    if damaged is not None:
        raise InputError(f"{path} is damaged at {damaged}; take another copy of it.")
