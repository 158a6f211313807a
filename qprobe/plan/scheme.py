"""What the name of a built-in recipe says about its forward product, for tools that know no more.

Tools that quantize a trained model quantize the forward product only. The recipes of one family
differ in the backward products, which such a tool does not have.
"""

import re
from dataclasses import dataclass

from qprobe.errors import InputError

_INTEGER = re.compile(r"int([348])-(tensor|channel-token|adaptive)")


@dataclass(frozen=True, slots=True)
class Nvfp4:
    """E2M1 numbers in blocks of 16 with an E4M3 scale each and one float32 scale a tensor."""

    rotated: bool = False


@dataclass(frozen=True, slots=True)
class Integer:
    """Symmetric integers; granularity ``tensor``, ``channel-token`` or ``adaptive``.

    The last two are the same in linear layers and differ in convolutions.
    """

    bits: int
    granularity: str

    @property
    def per_tensor(self) -> bool:
        """One scale for a tensor; else one for an output channel and one for a token."""
        return self.granularity == "tensor"


Scheme = Nvfp4 | Integer


def scheme(recipe: str, tool: str) -> Scheme:
    """The forward scheme of a built-in recipe.

    >>> scheme("nvfp4-sr", "modelopt"), scheme("int4-channel-token", "modelopt")
    (Nvfp4(rotated=False), Integer(bits=4, granularity='channel-token'))
    """
    if recipe == "nvfp4" or recipe.startswith("nvfp4-"):
        return Nvfp4(rotated=recipe == "nvfp4-fwd-rht")
    if found := _INTEGER.fullmatch(recipe):
        return Integer(int(found[1]), found[2])
    raise unsupported(recipe, tool)


def unsupported(recipe: str, tool: str) -> InputError:
    """What to say of a recipe that a tool cannot express."""
    return InputError(
        f"{tool} has no counterpart of the recipe {recipe!r}; export with --to qprobe, or copy the "
        "list of layers from --json."
    )
