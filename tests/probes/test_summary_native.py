"""The kernel against PyTorch: the same numbers, in every instruction set of this machine."""

import pytest
import torch

from qprobe import native
from qprobe.native import InstructionSet
from qprobe.probes.summary import Summary, TokenSample

SHAPES = [((517, 77), -1), ((300, 192), -1), ((9, 1000), -1), ((3, 20, 9, 11), 1), ((40, 1), -1)]
needs_kernels = pytest.mark.skipif(native.kernels is None, reason=native.describe())


def observe(x: torch.Tensor, axis: int) -> Summary:
    s = Summary(x.shape[axis])
    for part in x.chunk(2):
        s.observe(part, axis, sample=TokenSample(every=3, draw=1))
    return s


@needs_kernels
@pytest.mark.parametrize("limit", list(InstructionSet))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize(("mean", "scale"), [(0, 1), (100, 1), (0, 1e-11), (0, 1e12)])
def test_counts_are_equal_and_sums_agree(
    limit, dtype, shape, axis, mean, scale, monkeypatch, generator
):
    x = ((torch.randn(shape, generator=generator) + mean) * scale).to(dtype)
    x.view(-1)[::13] = 0.0
    native.kernels.select(limit)
    ours = observe(x, axis)
    native.kernels.select(InstructionSet.AVX512)
    monkeypatch.setattr(native, "kernels", None)
    theirs = observe(x, axis)
    for name in ("nonfinite", "magnitudes", "counts"):
        assert torch.equal(getattr(ours.fields, name), getattr(theirs.fields, name)), name
    assert torch.equal(ours.fields.reference, theirs.fields.reference)
    torch.testing.assert_close(ours.fields.energy, theirs.fields.energy, rtol=1e-6, atol=0.0)
    one, other = ours.moments(), theirs.moments()
    assert torch.equal(one.absmax, other.absmax)
    torch.testing.assert_close(one.m2, other.m2, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(one.m4, other.m4, rtol=1e-5, atol=0.0)
    mine, yours = ours.fields.token_histograms(), theirs.fields.token_histograms()
    assert torch.equal(mine.largest, yours.largest)
    for a, b in zip(mine, yours, strict=True):
        assert a.sum() == b.sum()
        assert (a - b).abs().sum() <= 2 + 0.01 * a.sum()
