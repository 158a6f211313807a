import numpy as np
import pytest
import torch

from qprobe.errors import InputError
from qprobe.stats.histogram import MagnitudeHistogram, QuarterOctaves, magnitude_index


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_magnitudes_are_counted_by_octave(dtype, generator):
    x = (torch.randn(5000, generator=generator) * 3).to(dtype)
    x[:3] = torch.tensor([0.0, float("nan"), -float("inf")])
    h = MagnitudeHistogram.of(x)
    octaves = np.frexp(np.abs(x[3:].double().numpy()))[1] - 1
    expected = np.bincount(np.clip(octaves + 40, 0, 63), minlength=64)
    assert h.bins.tolist() == expected.tolist()
    assert (h.zero.item(), h.nan.item(), h.infinite.item()) == (1, 1, 1)
    assert h.counts.sum() == x.numel()


def test_the_outer_bins_hold_what_lies_beyond():
    x = torch.tensor([2.0**-126, 2.0**-149, 2.0**-40, 2.0**23, 3e38])
    assert magnitude_index(x).tolist() == [0, 0, 0, 63, 63]


def test_histograms_of_parts_add_up(generator):
    x = torch.randn(300, generator=generator)
    merged = MagnitudeHistogram.of(x[:100]).merge(MagnitudeHistogram.of(x[100:]))
    assert torch.equal(merged.counts, MagnitudeHistogram.of(x).counts)


def test_other_types_are_refused():
    with pytest.raises(InputError, match=r"float32 or bfloat16 bits, got torch\.float64"):
        magnitude_index(torch.zeros(1, dtype=torch.float64))


def test_an_edge_belongs_to_the_bin_above_it():
    edges = QuarterOctaves(first=-3, octaves=5)
    at = torch.tensor([edges.edge(i) for i in range(edges.bins)], dtype=torch.float64)
    assert edges.index(at, torch.tensor(True)).tolist() == list(range(edges.bins))
    below = at[1:] * (1 - 2**-52)
    assert edges.index(below, torch.tensor(True)).tolist() == list(range(edges.bins - 1))


def test_a_quantile_is_within_an_eighth_of_the_sample(generator):
    edges = QuarterOctaves(first=-40, octaves=64)
    x = torch.randn(4000, generator=generator).exp()
    counts = torch.bincount(edges.index(x, torch.tensor(True)), minlength=edges.bins + 1)
    for q in (0.01, 0.5, 0.9, 0.99):
        assert edges.quantile(counts, q) == pytest.approx(x.quantile(q).item(), rel=0.12)


def test_no_counts_have_no_quantile_and_bad_questions_are_refused():
    edges = QuarterOctaves(first=0, octaves=1)
    assert edges.quantile(torch.tensor([0, 0, 0, 0, 3]), 0.5) is None
    with pytest.raises(InputError, match=r"between 0 and 1, got 1\.5"):
        edges.quantile(torch.zeros(5), 1.5)
    with pytest.raises(InputError, match="4 bins and one more"):
        edges.quantile(torch.zeros(4), 0.5)


def slow_quantile(edges, counts, q):
    below, wanted = 0, q * sum(counts[: edges.bins])
    for position, count in enumerate(counts[: edges.bins]):
        if count and below + count >= wanted:
            low, high = edges.edge(position), edges.edge(position + 1)
            return low + (high - low) * (wanted - below) / count
        below += count
    return float("nan")


def test_several_quantiles_of_several_histograms_are_those_of_each(generator):
    edges, shares = QuarterOctaves(first=-2, octaves=3), (0.0, 0.3, 0.5, 1.0)
    counts = torch.randint(0, 4, (20, edges.bins + 1), generator=generator)
    counts[0] = 0
    counts[1, :5], counts[2, -5:] = 0, 0
    found = edges.quantiles(counts, shares)
    expected = [[slow_quantile(edges, row, q) for q in shares] for row in counts.tolist()]
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0, equal_nan=True
    )
    highest = [edges.largest(row) for row in counts]
    assert highest[0] is None
    assert edges.highest(counts)[0].isnan()
    assert edges.highest(counts)[1:].tolist() == highest[1:]
