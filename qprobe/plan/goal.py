"""What a plan is to reach: so much in high precision at most, or so much of the score at least."""

import math
import re
from dataclasses import dataclass
from typing import TypeAlias

from qprobe.errors import InputError

_LAYERS = re.compile(r"(\d+)(?:\s*layers?)?")
_PERCENT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*%")


@dataclass(frozen=True, slots=True)
class KeepShare:
    """At most this share of the parameters of the quantized layers stays in high precision."""

    share: float

    def __str__(self) -> str:
        return f"at most {100 * self.share:g} % of the parameters in high precision"


@dataclass(frozen=True, slots=True)
class KeepLayers:
    """At most this many layers stay in high precision."""

    layers: int

    def __str__(self) -> str:
        return f"at most {self.layers} layer{'s' * (self.layers != 1)} in high precision"


@dataclass(frozen=True, slots=True)
class Target:
    """At least this share of the high-precision score."""

    share: float

    def __str__(self) -> str:
        return f"at least {100 * self.share:g} % of the high-precision score"


Goal: TypeAlias = KeepShare | KeepLayers | Target


def keep(text: str) -> KeepShare | KeepLayers:
    """A budget as people write it: ``5%`` of the parameters, or ``3 layers``, or ``3``.

    >>> keep("5%"), keep("3 layers")
    (KeepShare(share=0.05), KeepLayers(layers=3))
    """
    layers = _LAYERS.fullmatch(text.strip())
    if layers and int(layers[1]) > 0:
        return KeepLayers(int(layers[1]))
    return KeepShare(_share(text, "--keep", "5% of the parameters, or a number of layers"))


def target(text: str) -> Target:
    """A score to reach, relative to high precision.

    >>> target("99%")
    Target(share=0.99)
    """
    return Target(_share(text, "--target", "99% of the high-precision score"))


def _share(text: str, option: str, example: str) -> float:
    found = _PERCENT.fullmatch(text.strip())
    share = float(found[1]) / 100 if found else math.nan
    if not 0 < share <= 1:
        raise InputError(
            f"{option} takes a percentage above 0% and up to 100%, such as {example}; got {text!r}."
        )
    return share
