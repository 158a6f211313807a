import pytest
from plain_probes import Alone, Windowed
from torch import nn

from qprobe.errors import InputError
from qprobe.native import Sampled
from qprobe.probes.assignment import assign
from qprobe.probes.base import Field
from qprobe.records.schema import Role
from qprobe.sites import Site, discover
from qprobe.sites.discover import by_path, owners

MODEL = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


class Asking(Alone):
    def __init__(self, role, *needs):
        self.needs, self.role = frozenset(needs), role

    def selects(self, site):
        return site.role is self.role and site.kind in ("linear", "conv2d")


def assigned(*probes, lenient=False, model=MODEL):
    return assign(probes, discover(model), by_path(owners(model)), lenient=lenient)


def test_what_a_slot_needs():
    (slot,) = assigned(Asking(Role.GRAD_OUTPUT, Role.INPUT, Role.WEIGHT))
    assert [str(site) for site in slot.sites] == ["linear 0 grad_output", "linear 0 input"]
    assert slot.weighted
    (slot,) = assigned(Asking(Role.GRAD_WEIGHT, Role.WEIGHT))
    assert [site.role for site in slot.sites] == [Role.GRAD_WEIGHT, Role.WEIGHT]
    (slot,) = assigned(Asking(Role.INPUT, Field.MOMENTS, Field.NVFP4))
    assert slot.measure is Sampled.NVFP4


def test_what_cannot_be_seen_together_is_refused():
    with pytest.raises(InputError, match=r"grad_outputᵀ·input"):
        assigned(Asking(Role.INPUT, Role.GRAD_WEIGHT))
    with pytest.raises(InputError, match="either roles or fields"):
        assigned(Asking(Role.INPUT, Role.OUTPUT, Field.MOMENTS))
    with pytest.raises(InputError, match="'alone' selects none of the sites"):
        assigned(Asking(Role.INPUT, Role.BRANCH))
    attention = nn.Sequential(nn.MultiheadAttention(4, 2))

    class Everywhere(Windowed):
        def selects(self, site):
            return True

    with pytest.raises(InputError, match="has no channels"):
        assigned(Everywhere(), model=attention)


def test_a_probe_that_selects_nothing_is_refused_with_the_kinds_there_are():
    nowhere = Asking(Role.BRANCH)
    with pytest.raises(InputError, match=r"'alone' selects none.*linear \(5\), norm \(5\)"):
        assigned(nowhere)
    assert {slot.probe.name for slot in assigned(nowhere, Windowed(), lenient=True)} == {"windowed"}
    with pytest.raises(InputError, match="the probes select none"):
        assigned(nowhere, lenient=True)


def test_layers_are_numbered_by_path():
    assert {slot.site.path: slot.layer for slot in assigned(Windowed())} == {"0": 0, "1": 1}


class Joining(Alone):
    def selects(self, site):
        return site.role is Role.BRANCH

    def join(self, states):
        return {}


def test_what_a_probe_needs_is_found_among_all_sites():
    every = discover(MODEL)
    (gradient,) = (s for s in every if str(s) == "linear 0 grad_output")
    probe = Asking(Role.GRAD_OUTPUT, Role.INPUT, Role.WEIGHT)
    options = {"owners": by_path(owners(MODEL)), "lenient": False}
    with pytest.raises(InputError, match="selects none"):
        assign([probe], [gradient], **options)
    (slot,) = assign([probe], [gradient], available=every, **options)
    assert [str(site) for site in slot.sites] == ["linear 0 grad_output", "linear 0 input"]
    assert slot.weighted


def test_a_probe_that_joins_gets_all_branches_of_a_fusion():
    branches = [Site(f"./add.{n}", Role.BRANCH, "add", index) for n in (0, 1) for index in (0, 1)]
    slots = assign([Joining()], branches[:1], {}, available=branches, lenient=False)
    assert [slot.site for slot in slots] == branches[:2]
