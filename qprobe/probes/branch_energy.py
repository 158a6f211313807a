"""How much gradient each branch of a fusion gets, and how uneven that is."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.probes.base import Field, SiteView, State
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats import BranchEnergy, branch_energy
from qprobe.stats.missing import known


@dataclass(frozen=True, slots=True, kw_only=True)
class OneBranch(BranchEnergy):
    """The energy of one branch; fields have one value."""

    def scalars(self) -> Mapping[str, Tensor]:
        """Without what takes other branches."""
        values = {
            "energy": (self.energy()[0], self.samples[0] > 0),
            "energy_per_element": (self.energy_per_element()[0], self.elements[0] > 0),
        }
        return {"n": self.samples[0]} | known(values)


class BranchGradientEnergy:
    """Energy of the gradient at each branch, and how uneven it is over the branches of a fusion.

    The branches of additions are seen where they leave the activation that they share, those of
    concatenations and gates at the fusion; :func:`qprobe.sites.trace` finds both. Deviations and
    imbalance are filed under the fusion's ``output``. The loss scale of the view is divided out.
    """

    name = "branch_energy"
    needs: frozenset[Role | Field] = frozenset()

    def selects(self, site: Site) -> bool:
        return site.role is Role.BRANCH

    def observe(self, view: SiteView) -> OneBranch | None:
        gradient = view.tensor
        found = branch_energy([gradient, None], view.loss_scale)
        return OneBranch(
            samples=found.samples[:1], elements=found.elements[:1], squares=found.squares[:, :1]
        )

    def join(self, states: Mapping[Site, State]) -> Mapping[Site, State]:
        """The branches of each fusion side by side; one that no gradient reached is missing."""
        nodes: dict[Site, dict[int, OneBranch]] = {}
        for site, state in states.items():
            if not isinstance(state, OneBranch):
                raise InputError(
                    f"branch energies were asked to join a {type(state).__name__} of {site}; pass "
                    "what observe() returned."
                )
            node = Site(site.path, Role.OUTPUT, site.kind)
            nodes.setdefault(node, {})[site.index] = state
        return {node: _beside(one) for node, one in nodes.items() if len(one) > 1}


def _beside(branches: Mapping[int, OneBranch]) -> BranchEnergy:
    some = next(iter(branches.values()))
    nothing = OneBranch(
        samples=torch.zeros_like(some.samples),
        elements=torch.zeros_like(some.elements),
        squares=torch.zeros_like(some.squares),
    )
    every = [branches.get(index, nothing) for index in range(max(branches) + 1)]
    return BranchEnergy(
        samples=torch.cat([one.samples for one in every]),
        elements=torch.cat([one.elements for one in every]),
        squares=torch.cat([one.squares for one in every], -1),
    )
