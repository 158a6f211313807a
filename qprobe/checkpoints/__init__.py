"""Opens any checkpoint safely: ours, a state dict, safetensors, packed NVFP4 and integers."""

from qprobe.checkpoints.checkpoint import Checkpoint, Kind
from qprobe.checkpoints.layouts import Weight
from qprobe.checkpoints.loading import load_into
from qprobe.checkpoints.opening import in_folder, open_checkpoint
from qprobe.checkpoints.packed import Layout, PackedWeight
from qprobe.checkpoints.source import Entry, Source

open = open_checkpoint  # noqa: A001 - reads as checkpoints.open(path)

__all__ = [
    "Checkpoint",
    "Entry",
    "Kind",
    "Layout",
    "PackedWeight",
    "Source",
    "Weight",
    "in_folder",
    "load_into",
    "open",
]
