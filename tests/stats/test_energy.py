import math

import numpy as np
import pytest
import torch
from scipy.stats import gmean

from qprobe.errors import InputError
from qprobe.stats import branch_energy


def test_energies_are_mean_squared_norms_of_samples(generator):
    deep = torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    skip = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    found = branch_energy([deep, skip]).scalars()
    expected = [np.mean([(sample**2).sum() for sample in g.numpy()]) for g in (deep, skip)]
    for i, elements in enumerate((48, 5)):
        assert found[f"branch{i}.energy"].item() == pytest.approx(expected[i])
        assert found[f"branch{i}.energy_per_element"].item() == pytest.approx(
            expected[i] / elements
        )
        deviation = math.log(expected[i] / gmean(expected))
        assert found[f"branch{i}.deviation"].item() == pytest.approx(deviation)
    assert found["imbalance"].item() == pytest.approx(abs(math.log(expected[0] / expected[1])))
    spread = abs(math.log(expected[0] / 48) - math.log(expected[1] / 5))
    assert found["imbalance_per_element"].item() == pytest.approx(spread)
    assert found["n"].item() == 6


@pytest.mark.parametrize("scale", [65536.0, torch.tensor(65536.0)], ids=["number", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_loss_scale_leaves_no_trace(scale, dtype):
    g = torch.tensor([[2.0**-20, 2.0**-14]])
    scaled = (g * 65536.0).to(dtype)
    found = branch_energy([scaled, scaled], scale).scalars()
    assert found["branch0.energy"].item() == 2.0**-40 + 2.0**-28


def test_micro_batches_of_other_sizes_and_scales_merge(generator):
    deep, skip = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    whole = branch_energy([deep, skip]).scalars()
    first = branch_energy([deep[:2], skip[:2]])
    second = branch_energy([8 * deep[2:], 8 * skip[2:]], 8.0)
    merged = first.merge(second).scalars()
    assert merged.keys() == whole.keys()
    for key, value in whole.items():
        assert merged[key].item() == pytest.approx(value.item(), rel=1e-13), key


def test_a_dead_branch_is_named_and_leaves_the_others_comparable():
    one = torch.ones(2, 1)
    found = branch_energy([one, 0 * one, math.e * one]).scalars()
    assert found["dead"].item() == 1
    assert found["branch1.energy"].item() == 0.0
    assert found["branch1.deviation"].item() == -math.inf
    assert found["branch0.deviation"].item() == pytest.approx(-1.0)
    assert found["branch2.deviation"].item() == pytest.approx(1.0)
    assert found["imbalance"].item() == math.inf


def test_a_missing_branch_has_no_key():
    one = torch.ones(2, 1)
    found = branch_energy([one, None, math.e * one]).scalars()
    assert (found["missing"].item(), found["dead"].item()) == (1, 0)
    assert not any(key.startswith("branch1.") for key in found)
    assert found["imbalance"].item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    "gradients",
    [
        [torch.zeros(2, 3), torch.zeros(2, 3)],
        [torch.ones(2, 3), None],
        [None, None],
        [torch.zeros(0, 3), torch.zeros(0, 3)],
    ],
    ids=["all dead", "one seen", "none seen", "empty"],
)
def test_what_cannot_be_compared_has_no_imbalance(gradients):
    found = branch_energy(gradients).scalars()
    assert "imbalance" not in found
    assert not any(key.endswith("deviation") for key in found)
    assert not any(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_overflowed_gradient_is_seen(bad):
    found = branch_energy([torch.tensor([[bad]]), torch.ones(1, 1)]).scalars()
    assert not math.isfinite(found["branch0.energy"])
    assert not math.isfinite(found["imbalance"])


def test_the_logarithm_is_low_by_the_stated_bias(generator):
    """Squared norms of 2 normals: mean 2, variance 4, so ln E of 20 samples is low by 1/40."""
    logs = [
        math.log(
            branch_energy([torch.randn(20, 2, generator=generator), torch.ones(1, 1)]).energy()[0]
        )
        for _ in range(4000)
    ]
    assert math.log(2) - np.mean(logs) == pytest.approx(1 / 40, rel=0.25)


@pytest.mark.parametrize(
    ("gradients", "scale", "message"),
    [
        ([torch.ones(1, 1)], 1.0, "at least two branches, got 1"),
        ([torch.ones(1, 1)] * 2, 0.0, "positive number, got 0.0"),
        ([torch.ones(1, 1)] * 2, math.nan, "positive number, got nan"),
        ([torch.tensor(1.0)] * 2, 1.0, r"got torch.float32 of shape \(\)"),
        ([torch.ones(1, 1, dtype=torch.int64)] * 2, 1.0, "got torch.int64"),
    ],
)
def test_what_is_no_fusion_node_is_refused(gradients, scale, message):
    with pytest.raises(InputError, match=message):
        branch_energy(gradients, scale)
