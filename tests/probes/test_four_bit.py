"""The quick error against the quantizers themselves."""

import math

import pytest
import torch
from sklearn.metrics import mean_squared_error

from qprobe.probes.base import SiteView
from qprobe.probes.four_bit import FourBit
from qprobe.probes.summary import TokenSample
from qprobe.quant import INT4, NVFP4, Granularity, QuantSpec, fake_quantize
from qprobe.records.schema import Role
from qprobe.sites import Site

SPECS = {
    "nvfp4": QuantSpec(format=NVFP4),
    "int4": QuantSpec(format=INT4, granularity=Granularity.TOKEN),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_of_all_tokens_it_is_the_quantizers_error(dtype, mean, summed, generator):
    x = (torch.randn(96, 40, generator=generator).exp() + mean).to(dtype)
    x[3] = 0.0
    found = FourBit().observe(summed(x)).scalars()
    wide = x.float()
    for name, spec in SPECS.items():
        y = fake_quantize(wide, spec)
        signal = mean_squared_error(wide.double(), torch.zeros_like(wide).double())
        expected = 10 * math.log10(signal / mean_squared_error(wide.double(), y.double()))
        assert found[f"{name}.sqnr_db"].item() == pytest.approx(expected, abs=1e-4)
        lost = ((y == 0) & (wide != 0)).sum() / (wide != 0).sum()
        assert found[f"{name}.underflow"].item() == pytest.approx(lost.item(), rel=1e-6)
    assert found["n"] == x.numel()


def test_a_tensor_that_grew_saturates(summed, generator):
    x = torch.randn(64, 32, generator=generator)
    grown, shrunk = (
        FourBit().observe(summed(*parts)).scalars()["nvfp4.saturation"].item()
        for parts in ((x, 8 * x), (8 * x, x))
    )
    assert shrunk < 0.05  # E4M3 rounds some scales down
    assert grown > 0.15


def test_micro_batches_add(summed, generator):
    """The first holds the largest magnitude and tells the second, so scales are the whole's."""
    x = torch.randn(128, 16, generator=generator) + 100.0
    x[0, 0] = 300.0
    whole, both = summed(x), summed(x[:50], x[50:])
    one = FourBit().observe(summed(x[:50]))
    rest = whole.summary.fresh()
    rest.observe(x[50:], sample=TokenSample(every=1))
    other = FourBit().observe(SiteView(site=whole.site, module=None, summary=rest))
    expected = FourBit().observe(whole).scalars()
    for state in (one.merge(other), other.merge(one.to("cpu")), FourBit().observe(both)):
        for key, value in state.scalars().items():
            assert value.item() == pytest.approx(expected[key].item(), rel=1e-6)


def test_zero_and_nothing_are_missing(summed):
    for x in (torch.zeros(10, 16), torch.empty(0, 16)):
        found = FourBit().observe(summed(x)).scalars()
        assert {key for key in found if key.endswith(("sqnr_db", "underflow"))} == set()
        assert found["n"] == x.numel()
    exact = FourBit().observe(summed(torch.full((4, 16), 6.0))).scalars()
    assert exact["nvfp4.sqnr_db"] == math.inf
    view = SiteView(site=Site("a", Role.INPUT, "linear"), module=None)
    assert FourBit().observe(view) is None


def test_tokens_that_are_not_finite_are_left_out(summed, generator):
    x = torch.randn(50, 16, generator=generator)
    x[4, 2], x[6, 2] = math.nan, math.inf
    found = FourBit().observe(summed(x)).scalars()
    assert found["n"] == 48 * 16
    assert 15 < found["nvfp4.sqnr_db"] < 25


def test_the_sites_are_operands():
    chosen = [role for role in Role if FourBit().selects(Site("a", role, "conv_transpose2d"))]
    assert chosen == [Role.INPUT, Role.WEIGHT, Role.GRAD_OUTPUT]
    assert not FourBit().selects(Site("a", Role.INPUT, "norm"))
