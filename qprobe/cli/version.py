"""``qprobe version``: what is installed and which kernels are in use."""

import platform
from importlib.metadata import version as installed
from typing import TYPE_CHECKING

import typer

from qprobe import __version__

if TYPE_CHECKING:
    from types import ModuleType


def version() -> None:
    """Show the versions that matter and which kernels are in use."""
    import torch

    from qprobe import native

    rows = {
        "qprobe": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, {_device(torch)}",
        "numpy": installed("numpy"),
        "kernels": native.describe(),
    }
    for name, value in rows.items():
        typer.echo(f"{name:8} {value}")


def _device(torch: "ModuleType") -> str:
    if not torch.cuda.is_available():
        return "no GPU"
    return f"CUDA {torch.version.cuda} on {torch.cuda.get_device_name()}"
