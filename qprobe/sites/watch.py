"""What is wanted of one module, and its weight."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.quant.attention import ScaledDotProduct
from qprobe.quant.transposed import stores_transposed
from qprobe.records.schema import Role
from qprobe.sites.dataflow import first_argument
from qprobe.sites.discover import Owner
from qprobe.sites.site import Site

_PASSING = frozenset({Role.INPUT, Role.OUTPUT, Role.GRAD_OUTPUT})


class Wanted:
    """Which tensors of a module are wanted, looked up once."""

    def __init__(self, attends: bool, sites: Iterable[Site]) -> None:
        of: dict[Role, list[Site]] = {}
        for site in sites:
            of.setdefault(site.role, []).append(site)
        inputs = of.get(Role.INPUT, [])
        self.inputs = tuple(inputs) if attends else ()
        self.input = inputs[0] if inputs and not attends else None
        self.output = of.get(Role.OUTPUT, [None])[0]
        self.gradient = of.get(Role.GRAD_OUTPUT, [None])[0]
        self.logits = (*of.get(Role.ATTN_LOGITS, ()), *of.get(Role.ATTN_PROBS, ()))
        self.learned = (*of.get(Role.WEIGHT, ()), *of.get(Role.GRAD_WEIGHT, ()))
        self.passing = bool(of.keys() - {Role.WEIGHT, Role.GRAD_WEIGHT})

    def tensors(self, given: tuple[Any, Any], made: Tensor | None) -> list[tuple[Site, Tensor]]:
        """What a call made and what it took, as far as it is wanted."""
        taken = None if self.input is None else first_argument(*given)
        pairs = (self.output, made), (self.input, taken)
        return [(site, t) for site, t in pairs if site is not None and t is not None]


class Watch:
    """What is wanted of one module: at all, and for the time being."""

    def __init__(self, owner: Owner, sites: list[Site]) -> None:
        self.owner = owner
        self.sites = tuple(sites)
        self.attends = isinstance(owner.module, nn.MultiheadAttention | ScaledDotProduct)
        self.everything = Wanted(self.attends, sites)
        #: Whether several tensors of one call are wanted, which then have to be told apart.
        self.several = len({site.role for site in sites if site.role in _PASSING}) > 1
        self.armed: Wanted | None = self.everything

    def arm(self, sites: frozenset[Site] | None) -> None:
        """Want what of ``sites`` is here, and nothing else; None: everything."""
        armed = self.sites if sites is None else [one for one in self.sites if one in sites]
        self.armed = Wanted(self.attends, armed) if armed else None


def weight_of(owner: Owner) -> nn.Parameter:
    """The weight that the weight sites of ``owner`` are about."""
    module = owner.module
    weight: object = getattr(module, "weight", None)
    if isinstance(module, nn.MultiheadAttention):
        packed = owner.path.endswith("in_proj")
        weight = module.in_proj_weight if packed else module.out_proj.weight
    if not isinstance(weight, nn.Parameter):
        raise InputError(
            f"the weight of {owner.path!r} is no parameter any more; make a new capture."
        )
    return weight


def local_part(module: nn.Module, tensor: Tensor) -> Tensor:
    """This process's part of a weight, ``[outputs, inputs]``."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.mT if stores_transposed(module) else local
