"""Which sites the probes of tensors and operands look at."""

from collections.abc import Iterable
from typing import Final

from qprobe.errors import InputError
from qprobe.records.schema import Role
from qprobe.sites import Site

#: The tensors that are worth watching as such.
WATCHED: Final = (Role.INPUT, Role.OUTPUT, Role.WEIGHT, Role.GRAD_OUTPUT)
#: The operands of a layer's products, by what they are called there.
OPERANDS: Final = {Role.INPUT: "x", Role.WEIGHT: "w", Role.GRAD_OUTPUT: "dy"}


def multiplies(site: Site) -> bool:
    """Whether a site belongs to a layer that recipes are for, and is an operand there.

    >>> multiplies(Site("fc", Role.WEIGHT, "linear")), multiplies(Site("fc", Role.OUTPUT, "linear"))
    (True, False)
    >>> multiplies(Site("norm", Role.INPUT, "norm"))
    False
    """
    return site.role in OPERANDS and (site.kind == "linear" or site.kind.startswith("conv"))


def watched(roles: Iterable[Role | str]) -> frozenset[Role]:
    """Roles of tensors, given as such or by name."""
    found = frozenset(roles)
    strange = [role for role in found if role not in WATCHED]
    if strange or not found:
        raise InputError(
            f"the roles of a probe of tensors are some of {', '.join(WATCHED)}; "
            f"got {', '.join(map(repr, map(str, strange))) or 'none'}."
        )
    return frozenset(Role(role) for role in found)
