"""A sum and a concatenation worked by hand."""

import math

import pytest
import torch
from seen import branches
from torch import nn

from qprobe.errors import InputError
from qprobe.probes.base import PROBES, JointProbe, SiteView
from qprobe.probes.branch_energy import BranchGradientEnergy
from qprobe.records.schema import Role
from qprobe.sites import Site

PROBE = BranchGradientEnergy()


class Concatenated(nn.Module):
    """Ones in the weights, so that the gradient of each half is what the head's weight says."""

    def __init__(self):
        super().__init__()
        self.deep, self.skip = nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)
        self.head = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[4.0, 2.0, 1.0]]))

    def forward(self, x):
        return self.head(torch.cat([self.deep(x), self.skip(x)], -1))


class Residual(nn.Module):
    """y = 3·s + 1·s with s the stem: gradients 3 and 1 leave it where the branches part."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner = (nn.Linear(1, 1, bias=False) for _ in range(2))
        with torch.no_grad():
            self.inner.weight.fill_(3.0)

    def forward(self, x):
        x = self.stem(x)
        return x + self.inner(x)


def observed(site, gradient, **given):
    return PROBE.observe(SiteView(site=site, module=None, tensors={site.role: gradient}, **given))


def states(seen, **given):
    return {site: observed(site, gradient, **given) for site, gradient in seen.items()}


def numbers(state):
    return {key: value.item() for key, value in state.to("cpu").scalars().items()}


def test_a_concatenation():
    # The loss weights two samples by −1 and 1: squared gradients 16 and 2² + 1² a sample.
    found = states(branches(Concatenated(), torch.ones(2, 1)))
    by_index = {site.index: numbers(state) for site, state in found.items()}
    assert by_index[0] == {"n": 2, "energy": 16.0, "energy_per_element": 16.0}
    assert by_index[1] == {"n": 2, "energy": 5.0, "energy_per_element": 2.5}
    ((node, joined),) = PROBE.join(found).items()
    assert node == Site("./cat.0", Role.OUTPUT, "cat")
    values = numbers(joined)
    assert values["imbalance"] == pytest.approx(math.log(16 / 5))
    assert values["imbalance_per_element"] == pytest.approx(math.log(16 / 2.5))
    assert values["branch0.deviation"] == pytest.approx(math.log(16 / 5) / 2)
    assert values["branch1.deviation"] == pytest.approx(-math.log(16 / 5) / 2)


def test_a_sum_where_its_branches_part():
    found = states(branches(Residual(), torch.ones(2, 1)))
    energies = {site.index: numbers(state)["energy"] for site, state in found.items()}
    assert energies == {0: 1.0, 1: 9.0}
    (joined,) = PROBE.join(found).values()
    assert numbers(joined)["imbalance"] == pytest.approx(math.log(9))


def test_the_loss_scale_is_taken_out_of_energies():
    seen = branches(Concatenated(), torch.ones(2, 1))
    plain, scaled = states(seen), states({s: g * 1024 for s, g in seen.items()}, loss_scale=1024.0)
    assert [numbers(one) for one in plain.values()] == [numbers(one) for one in scaled.values()]
    tensor = states({s: g * 8 for s, g in seen.items()}, loss_scale=torch.tensor(8.0))
    assert [numbers(one) for one in plain.values()] == [numbers(one) for one in tensor.values()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_micro_batches_merge_to_the_whole(dtype):
    site = Site("./cat.0", Role.BRANCH, "cat")
    gradient = torch.randn(12, 3, 5).to(dtype)
    whole = observed(site, gradient)
    parts = [observed(site, part) for part in gradient.split([5, 1, 6])]
    left = parts[0].merge(parts[1]).merge(parts[2])
    right = parts[0].merge(parts[1].merge(parts[2]))
    assert numbers(left) == numbers(right)
    assert numbers(left) == pytest.approx(numbers(whole), rel=1e-12)
    energy = gradient.double().square().flatten(1).sum(1).mean().item()
    assert numbers(left)["energy"] == pytest.approx(energy, rel=1e-12)


def test_a_dead_and_a_missing_branch():
    sites = [Site("./cat.0", Role.BRANCH, "cat", index) for index in range(3)]
    found = {sites[0]: observed(sites[0], torch.zeros(2, 1))}
    found[sites[2]] = observed(sites[2], torch.ones(2, 1))
    (joined,) = PROBE.join(found).values()
    values = numbers(joined)
    assert (values["dead"], values["missing"]) == (1, 1)
    assert values["imbalance"] == math.inf
    assert "branch1.energy" not in values


def test_nodes_are_kept_apart_and_one_branch_is_no_node():
    sites = [
        Site("a/cat.0", Role.BRANCH, "cat", 0),
        Site("a/cat.0", Role.BRANCH, "cat", 1),
        Site("b/cat.0", Role.BRANCH, "cat", 0),
    ]
    joined = PROBE.join({site: observed(site, torch.ones(1, 1)) for site in sites})
    assert list(joined) == [Site("a/cat.0", Role.OUTPUT, "cat")]


def test_what_it_did_not_make_is_refused():
    site = Site("a/cat.0", Role.BRANCH, "cat")
    node = next(iter(PROBE.join(states(branches(Concatenated(), torch.ones(2, 1)))).values()))
    with pytest.raises(InputError, match="asked to join a BranchEnergy of cat"):
        PROBE.join({site: node})


def test_it_is_registered_as_a_joint_probe():
    probe = PROBES.get("branch_energy")
    assert isinstance(probe, JointProbe)
    assert probe.selects(Site("a/add.0", Role.BRANCH, "add", 1))
    assert not probe.selects(Site("a", Role.GRAD_OUTPUT, "linear"))
