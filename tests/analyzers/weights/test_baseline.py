import pytest
import torch

from qprobe.analyzers.weights import baseline
from qprobe.analyzers.weights.dense import Weight, measure


@pytest.mark.parametrize("shape", [(512, 512), (128, 2048), (64, 64, 3, 3)])
def test_normal_weights_are_at_the_baseline(shape, generator):
    x = torch.randn(*shape, generator=generator)
    found = dict(measure(Weight(shape=shape, rows=lambda a, b: x[a:b]), None))
    for name, expected in baseline.BLOCKS_DB.items():
        assert found[f"{name}.sqnr_db"] == pytest.approx(expected, abs=0.1), name
    gain = found["int8_channel.sqnr_db"] - found["int8_tensor.sqnr_db"]
    expected = baseline.granularity_gain_db(x.numel(), x[0].numel())
    assert gain == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("n", [1, 100, 10**6, 10**6 + 1, 10**12])
def test_the_largest_of_many_is_their_median_largest(n):
    x = baseline.largest_of(n)
    tail = torch.special.erfc(torch.tensor(x / 2**0.5, dtype=torch.float64)) if n > 1 else 0.5
    assert (1 - float(tail)) ** n == pytest.approx(0.5, rel=1e-3)
