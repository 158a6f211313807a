"""Reference architectures, and a door for everybody else's: :func:`build`."""

from qprobe.models.build import ARCHITECTURES, build, in_high_precision

__all__ = ["ARCHITECTURES", "build", "in_high_precision"]
