import pytest
import torch
from plain_probes import Alone, Windowed

from qprobe.errors import InputError
from qprobe.probes.base import PROBES, JointProbe, Probe, SiteView, named
from qprobe.records.schema import Role
from qprobe.registry import Registry
from qprobe.sites import Site


def test_named_takes_objects_and_refuses_two_of_a_name():
    one, other = Alone(), Windowed()
    assert named([one, other]) == (one, other)
    with pytest.raises(InputError, match="'alone' was asked for twice"):
        named([one, Alone()])


def test_a_class_is_made_and_what_is_no_probe_is_refused():
    registry = Registry("qprobe.tests.none", "probe", PROBES._check)
    assert isinstance(registry.register("alone", Alone), Alone)
    with pytest.raises(InputError, match="calls itself 'windowed'"):
        registry.register("other", Windowed())
    with pytest.raises(InputError, match="without name, needs, selects and"):
        registry.register("thing", 3)


def test_a_view_gives_its_own_tensor_and_those_of_other_roles():
    x, y = torch.ones(2), torch.zeros(3)
    site = Site("a", Role.OUTPUT, "linear")
    view = SiteView(site=site, module=None, tensors={Role.INPUT: x, Role.OUTPUT: y})
    assert view.tensor is y
    assert view[Role.INPUT] is x
    assert view.setup is None


def test_only_a_probe_with_join_joins():
    class Joined(Alone):
        def join(self, states):
            return {}

    assert isinstance(Alone(), Probe)
    assert not isinstance(Alone(), JointProbe)
    assert isinstance(Joined(), JointProbe)
