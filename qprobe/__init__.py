"""qprobe finds which layer, which operand and which recipe breaks a 4-bit model, and why.

The public names are loaded when they are first used, so that ``import qprobe`` costs nothing and
opening a run never imports torch.
"""

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qprobe.analyzers.analyze import analyze
    from qprobe.analyzers.base import Subject
    from qprobe.engine import TrainConfig, train
    from qprobe.probes.attach import attach
    from qprobe.probes.schedule import Every
    from qprobe.probes.session import Session
    from qprobe.quant.catalogue import recipe, recipes
    from qprobe.quant.convert import convert, override
    from qprobe.quant.quantize import fake_quantize, quantize

__version__ = _version("qprobe")

_PUBLIC = {
    "Every": "qprobe.probes.schedule",
    "Session": "qprobe.probes.session",
    "Subject": "qprobe.analyzers.base",
    "analyze": "qprobe.analyzers.analyze",
    "attach": "qprobe.probes.attach",
    "convert": "qprobe.quant",
    "fake_quantize": "qprobe.quant",
    "open": "qprobe.records",
    "override": "qprobe.quant",
    "quantize": "qprobe.quant",
    "recipe": "qprobe.quant",
    "recipes": "qprobe.quant",
    "train": "qprobe.engine",
    "TrainConfig": "qprobe.engine",
}

# Not `open`: a star import would hide the built-in.
__all__ = [
    "Every",
    "Session",
    "Subject",
    "TrainConfig",
    "__version__",
    "analyze",
    "attach",
    "convert",
    "fake_quantize",
    "open",
    "override",
    "quantize",
    "recipe",
    "recipes",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'qprobe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
