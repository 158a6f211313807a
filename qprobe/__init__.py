"""qprobe finds which layer, which operand and which recipe breaks a 4-bit model, and why.

The public names are loaded when they are first used, so that ``import qprobe`` costs nothing and
opening a run never imports torch.
"""

from importlib import import_module
from importlib.metadata import version as _version
from typing import Any

__version__ = _version("qprobe")

_PUBLIC: dict[str, str] = {"open": "qprobe.records"}

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'qprobe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
