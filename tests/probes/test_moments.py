"""The moments probe against SciPy, and where it says that outliers are."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from qprobe.errors import InputError
from qprobe.probes.base import SiteView
from qprobe.probes.four_bit import FourBit
from qprobe.probes.histogram import Histogram
from qprobe.probes.moments import Moments
from qprobe.probes.summary import Summary, TokenSample
from qprobe.records.schema import Role
from qprobe.sites import Site


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_scipys(mean, dtype, summed, generator):
    x = (torch.randn(600, 48, generator=generator) ** 3 / 4 + mean).to(dtype)
    wide = x.double().numpy()
    found = {k: v.item() for k, v in Moments().observe(summed(x)).scalars().items()}
    assert found["kurtosis"] == pytest.approx(stats.kurtosis(wide.ravel(), fisher=False), rel=1e-5)
    assert found["std"] == pytest.approx(wide.std(), rel=1e-5)
    assert found["absmax"] == np.abs(wide).max()
    parts = {
        "channel_kurtosis": stats.kurtosis(wide, 0, fisher=False),
        "channel_std": wide.std(0),
        "channel_absmax": np.abs(wide).max(0),
    }
    for name, values in parts.items():
        for cut, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
            assert found[f"{name}_{cut}"] == pytest.approx(np.quantile(values, q), rel=1e-5)
    tokens = stats.kurtosis(wide, 1, fisher=False)
    for cut, q in (("median", 0.5), ("p90", 0.9), ("max", 1.0)):
        assert found[f"token_kurtosis_{cut}"] == pytest.approx(np.quantile(tokens, q), rel=0.13)
    pattern = np.median(np.log(parts["channel_kurtosis"])) / np.median(np.log(tokens))
    assert found["outlier_pattern"] == pytest.approx(pattern, rel=0.12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_micro_batches_merge_to_one_pass_in_float64(dtype, summed, generator):
    x = (torch.randn(500, 20, generator=generator) + 100.0).to(dtype)
    one, two, three = (Moments().observe(summed(part)) for part in x.split([3, 250, 247]))
    found = two.merge(three.merge(one.to("cpu"))).scalars()
    whole = Moments().observe(summed(x)).scalars()
    assert found.keys() == whole.keys()
    wide = x.double().numpy()
    for values in (found, whole):
        expected = stats.kurtosis(wide.ravel(), fisher=False)
        assert values["kurtosis"].item() == pytest.approx(expected, rel=1e-5)
        assert values["mean"].item() == pytest.approx(wide.mean(), rel=1e-8)
        assert values["tokens"] == 500


def test_merging_changes_neither_side(summed, generator):
    one, two = (
        Moments().observe(summed(torch.randn(40, 8, generator=generator))) for _ in range(2)
    )
    before = one.channels.clone(), two.tokens.clone()
    one.merge(two)
    assert torch.equal(one.channels, before[0])
    assert torch.equal(two.tokens, before[1])


def test_outliers_in_channels_and_at_places_fall_on_two_sides_of_one(summed, generator):
    x = torch.randn(512, 64, generator=generator)
    channels, places = x.clone(), x.clone()
    channels[:, 7] *= 50
    places[100] *= 50
    even, across, along = (
        Moments().observe(summed(t)).scalars()["outlier_pattern"].item()
        for t in (x, channels, places)
    )
    assert across < 0.5 < 0.9 < even < 1.1 < 2.0 < along


def test_images_have_voxels_for_tokens(summed, generator):
    x = torch.randn(2, 32, 9, 7, generator=generator)
    found = Moments().observe(summed(x, axis=1)).scalars()
    assert found["tokens"] == 2 * 63
    expected = stats.kurtosis(x.movedim(1, -1).reshape(-1, 32).double().numpy(), 1, fisher=False)
    assert found["token_kurtosis_median"].item() == pytest.approx(np.median(expected), rel=0.12)


@pytest.mark.parametrize("shape", [(15, 64), (64, 15)])
def test_too_few_channels_or_tokens_have_no_pattern(shape, summed, generator):
    found = Moments().observe(summed(torch.randn(shape, generator=generator))).scalars()
    assert "outlier_pattern" not in found
    assert "kurtosis" in found


def test_zero_one_element_and_nothing_are_three_things(summed):
    zero = Moments().observe(summed(torch.zeros(20, 16))).scalars()
    assert (zero["mean"], zero["std"], zero["absmax"]) == (0, 0, 0)
    assert zero["channel_std_max"] == 0
    assert not [key for key in zero if "kurtosis" in key or key == "outlier_pattern"]
    one = Moments().observe(summed(torch.full((1, 1), 3.0))).scalars()
    assert (one["n"], one["mean"]) == (1, 3)
    nothing = Moments().observe(summed(torch.empty(0, 16))).scalars()
    assert nothing["n"] == 0
    assert "mean" not in nothing
    assert Moments().observe(SiteView(site=Site("a", Role.INPUT, "linear"), module=None)) is None


def test_nan_and_infinity_are_counted_and_left_out(summed, generator):
    x = torch.randn(60, 20, generator=generator)
    x[3, 4], x[5, 6] = math.nan, math.inf
    found = Moments().observe(summed(x)).scalars()
    assert (found["nan"], found["infinite"], found["tokens_nonfinite"]) == (1, 1, 2)
    assert found["n"] == 1198
    assert not any(value.isnan() for value in found.values())


def test_the_default_probes_take_no_memory_beside_the_summary():
    """At 768 channels: 64 kB a tensor, whatever was seen."""
    summary = Summary(768)
    for draw in range(3):
        summary.observe(torch.randn(200, 768), sample=TokenSample(draw=draw))
    view = SiteView(site=Site("a", Role.INPUT, "linear"), module=None, summary=summary)
    states = [probe().observe(view) for probe in (Moments, Histogram, FourBit)]
    tensors = [getattr(state, name) for state in states for name in state.__slots__]
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert sum(held.values()) <= 64 * 1024
    assert len(held) == 1


def test_roles_are_those_of_tensors():
    kinds = ("linear", "norm", "embedding")
    found = [role for role in Role if Moments().selects(Site("a", role, kinds[0]))]
    assert found == [Role.INPUT, Role.OUTPUT, Role.WEIGHT, Role.GRAD_OUTPUT]
    only = Moments(roles=["weight"])
    assert [role for role in Role if only.selects(Site("a", role, "norm"))] == [Role.WEIGHT]
    with pytest.raises(InputError, match="grad_output; got 'branch'"):
        Moments(roles=["branch"])
    with pytest.raises(InputError, match="got none"):
        Histogram(roles=[])
