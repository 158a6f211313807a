"""What every kind of defect promises."""

import copy
from itertools import pairwise

import pytest
import torch
from faults.patients import damage, gradient, high_precision, patient, site_for
from torch import nn

from qprobe.errors import InputError
from qprobe.faults import KINDS, candidates, plant
from qprobe.quant import convert
from qprobe.records.schema import Cause

DEFECTS = [name for name, kind in KINDS.items() if not kind.benign]
BENIGN = [name for name, kind in KINDS.items() if kind.benign]
each_kind = pytest.mark.parametrize("kind", KINDS)


def everything(model):
    """All that a defect could leave behind."""
    hooks = [
        (path, len(module._forward_hooks), len(module._forward_pre_hooks))
        for path, module in model.named_modules()
    ]
    setups = [getattr(module, "setup", None) for module in model.modules()]
    return hooks, setups


def test_every_cause_has_a_kind():
    assert {kind.cause for kind in KINDS.values()} == {*Cause, None}
    assert len(DEFECTS) >= 10


@each_kind
def test_it_comes_out_to_the_bit(kind):
    one = patient(kind)
    site = site_for(kind, one)
    state, left, before = copy.deepcopy(one.model.state_dict()), everything(one.model), None
    with torch.no_grad():
        before = one.model(one.x)
        with plant(one.model, kind, site, strength=KINDS[kind].strengths[2], example=(one.x,)) as p:
            one.model(one.x)
        p.undo()  # the second time
        assert torch.equal(one.model(one.x), before)
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, state[key])
    hooks, setups = everything(one.model)
    assert hooks == left[0]
    assert all(a is b for a, b in zip(setups, left[1], strict=True))


@pytest.mark.parametrize("architecture", ["vit", "cnn"])
@each_kind
def test_high_precision_does_not_see_it(kind, architecture):
    one = patient(kind, architecture, torch.float64) if kind != "key-offset" else patient(kind)
    if kind == "key-offset":  # the product of attention is computed in float32
        one = type(one)(one.model.double(), one.x.double())
    found = candidates(one.model, kind, (one.x,))
    if not KINDS[kind].preserves or not found:
        assert kind in ("logit-growth", "weight-noise", "key-offset")
        return
    with torch.no_grad():
        exact = high_precision(one.model)(one.x)
        for strength in KINDS[kind].strengths:
            with plant(one.model, kind, found[-1], strength=strength, example=(one.x,)):
                twin = high_precision(one.model)(one.x)
            assert (twin - exact).norm() / exact.norm() < 1e-12


@pytest.mark.parametrize("kind", DEFECTS)
def test_more_of_it_hurts_more(kind):
    one = patient(kind)
    site = site_for(kind, one)
    doses = [damage(one, kind, site, strength) for strength in sorted(set(KINDS[kind].strengths))]
    if kind == "dead-branch":
        clean = damage(one, kind, site, 1.0)
    else:
        clean = damage(one, "other-seed" if KINDS[kind].gradient else "weight-noise", site, 0.0)
    grows = all(more > less for less, more in pairwise(doses))
    # A gradient of which nothing is left cannot lose more.
    assert grows or (kind == "missing-gradient-scale" and doses[-2:] == [1.0, 1.0]), doses
    assert doses[-1] > 1.5 * clean


@pytest.mark.parametrize("kind", ["power-of-two", "mild-gain", "permuted-channels", "weight-noise"])
def test_benign_changes_cost_nothing(kind):
    one = patient(kind)
    site = site_for(kind, one)
    strongest = KINDS[kind].strengths[2]
    clean = damage(one, "weight-noise", site, 0.0)
    assert damage(one, kind, site, strongest) < 1.1 * clean


@each_kind
def test_the_seed_decides(kind):
    one = patient(kind)
    site = site_for(kind, one)

    def planted(seed):
        convert_again = copy.deepcopy(one.model)
        with plant(convert_again, kind, site, seed=seed, example=(one.x,)):
            if KINDS[kind].gradient:
                names = [name for name, _ in convert_again.named_parameters()]
                last = next(name for name in names if name.startswith("blocks.0"))
                return gradient(convert_again, one.x, last)
            with torch.no_grad():
                return convert_again(one.x)

    assert torch.equal(planted(0), planted(0))
    if kind in ("channel-outlier", "weight-outlier", "spatial-outlier", "noise", "mild-gain"):
        assert not torch.equal(planted(0), planted(1))


@each_kind
def test_a_wrong_site_is_refused_with_the_right_ones(kind):
    one = patient(kind)
    right = candidates(one.model, kind, (one.x,))
    with pytest.raises(InputError, match=f"{kind} cannot be planted at 'nowhere'; it fits at") as e:
        plant(one.model, kind, "nowhere", example=(one.x,))
    assert right[0] in str(e.value)
    plain = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(InputError, match="it fits nowhere in this model under its recipe"):
        plant(plain, kind, "0", example=(torch.randn(2, 4),))


@pytest.mark.parametrize(
    ("kind", "strength", "sentence"),
    [
        ("channel-outlier", 0.5, "a factor from 1 on, got 0.5"),
        ("nearest-gradient", 1.5, "between 0 and 1; got 1.5"),
        ("few-bits", 3.0, "the number of bits removed, 1 or 2; got 3.0"),
        ("missing-gradient-scale", 0.0, "a constant above 0"),
    ],
)
def test_a_strength_out_of_range_is_refused(kind, strength, sentence):
    one = patient(kind)
    site = site_for(kind, one)
    with pytest.raises(InputError, match=sentence):
        plant(one.model, kind, site, strength=strength, example=(one.x,))


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(InputError, match="no kind of defect is called 'rust'; there are channel"):
        candidates(nn.Linear(2, 2), "rust")


def test_a_weight_that_two_layers_share_is_no_candidate():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    convert(model, "int4-tensor", layers="all")
    assert candidates(model, "channel-outlier") == ["0"]


def test_defects_stack_and_a_copy_carries_them():
    one = patient("few-bits")
    site = site_for("few-bits", one)
    with plant(one.model, "channel-outlier", site), plant(one.model, "few-bits", site):
        inside = one.model(one.x)
        twin = copy.deepcopy(one.model)
    assert torch.equal(twin(one.x), inside)
