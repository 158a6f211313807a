"""The rotation against its definition."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from qprobe.errors import InputError
from qprobe.quant import hadamard, rotate
from qprobe.quant.hadamard import SIGN_MASK, matrix

#: As the specification prints them; the mask is 0xD7E8.
SIGNS = [1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1]


def test_the_matrix_is_signs_times_sylvesters_hadamard() -> None:
    want = np.diag(SIGNS) @ scipy.linalg.hadamard(16) / 4
    np.testing.assert_array_equal(matrix(torch.device("cpu")).numpy(), want)
    assert [(-1) ** (SIGN_MASK >> i & 1) for i in range(16)] == SIGNS


def test_signs_multiply_inputs_and_the_matrix_is_not_symmetric() -> None:
    r = matrix(torch.device("cpu"))
    assert not torch.equal(r, r.T)
    one_hot = torch.zeros(1, 16)
    one_hot[0, 3] = 1  # sign −1
    assert rotate(one_hot)[0, 0] == -0.25
    assert torch.equal(rotate(one_hot)[0], r[3])


@pytest.mark.parametrize("axis", [0, 1, 2, -1, (0, 2), (2, 0)])
def test_every_axis_is_the_explicit_product(axis: int | tuple[int, ...]) -> None:
    x = torch.randn(16, 32, 48, generator=torch.Generator().manual_seed(0))
    axes = (axis,) if isinstance(axis, int) else axis
    others = [a for a in range(3) if a not in [b % 3 for b in axes]]
    order = [*others, *[b % 3 for b in axes]]
    flat = x.permute(order).reshape(*[x.shape[a] for a in others], -1)
    want = (flat.unflatten(-1, (-1, 16)).double() @ matrix(x.device).double()).flatten(-2)
    want = want.view([x.shape[a] for a in order]).permute([order.index(a) for a in range(3)])
    torch.testing.assert_close(rotate(x, axis).double(), want, rtol=0, atol=2e-6)
    torch.testing.assert_close(rotate(rotate(x, axis), axis, inverse=True), x, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_result_is_rounded_to_the_inputs_dtype(dtype: torch.dtype) -> None:
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    got = rotate(x)
    assert got.dtype is dtype
    want = (x.float().view(-1, 16).double() @ matrix(x.device).double()).float().view(4, 32)
    assert torch.equal(got, want.to(dtype)) or dtype is torch.float64
    torch.testing.assert_close(got.double(), want.double(), rtol=8e-3, atol=1e-6)


def test_it_spreads_an_outlier_over_its_group_only() -> None:
    x = torch.zeros(48)
    x[20] = 8.0
    got = rotate(x)
    assert got[16:32].abs().tolist() == [2.0] * 16
    assert got[:16].abs().sum() + got[32:].abs().sum() == 0


def test_the_first_use_decides_nothing() -> None:
    """The matrix is kept: neither inference mode nor the default dtype may stick to it."""
    for context in (torch.inference_mode(), torch.no_grad()):
        hadamard._matrices.clear()
        torch.set_default_dtype(torch.float64)
        try:
            with context:
                rotate(torch.ones(16, dtype=torch.float32))
        finally:
            torch.set_default_dtype(torch.float32)
        x = torch.ones(16, requires_grad=True)
        rotate(x).sum().backward()
        assert x.grad is not None


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"groups of 16, and axis 1 of \[4, 20\] has 20"):
        rotate(torch.zeros(4, 20), 1)
    with pytest.raises(InputError, match="floating point"):
        rotate(torch.zeros(16, dtype=torch.int32))
    with pytest.raises(InputError, match="axis 2 is not one of"):
        rotate(torch.zeros(16, 16), 2)


def test_a_matrix_made_under_a_fake_mode_is_not_kept() -> None:
    hadamard._matrices.clear()
    with FakeTensorMode():
        assert rotate(torch.ones(4, 16)).shape == (4, 16)
    assert torch.equal(rotate(rotate(torch.eye(16)), inverse=True), torch.eye(16))
