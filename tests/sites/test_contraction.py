"""Layouts of products, checked by computing the logits again with torch.matmul."""

import pytest
import torch

from qprobe.sites.contraction import contraction_of, softmax_axis

B, H, N, M, D = 2, 3, 5, 7, 4


def product(function, *args, **kwargs):
    """What is known of a call, and what it gives."""
    flat = [leaf for arg in args for leaf in (arg if isinstance(arg, list) else [arg])]
    inputs = {at: leaf for at, leaf in enumerate(flat) if torch.is_tensor(leaf)}
    return contraction_of(function, args, kwargs, inputs), function(*args, **kwargs), flat


EQUATIONS = {
    "bhid,bhjd->bhij": ((B, H, N, D), (B, H, M, D), -1),
    "bnhd,bmhd->bhnm": ((B, N, H, D), (B, M, H, D), -1),
    "... i d, ... j d -> ... i j": ((B, H, N, D), (B, H, M, D), -1),
    "bhjd,bhid->bhij": ((B, H, M, D), (B, H, N, D), -1),  # keys first
    "bhid,bhjd->bhji": ((B, H, N, D), (B, H, M, D), -2),  # keys in rows
    "bihd,bjhd->bijh": ((B, N, H, D), (B, M, H, D), -2),  # heads last
    "nbhd,mbhd->bhnm": ((N, B, H, D), (M, B, H, D), -1),
    "bhid,jd->bhij": ((B, H, N, D), (M, D), -1),  # keys that all share
    "bdi,bdj->bij": ((B, D, N), (B, D, M), -1),
}


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("listed", [False, True])
def test_an_einsum_is_laid_out_as_queries_and_keys(equation, listed):
    first, second, axis = EQUATIONS[equation]
    operands = [torch.randn(first), torch.randn(second)]
    given = [operands] if listed else operands
    found, made, flat = product(torch.einsum, equation, *given)
    layout = found.layout(axis)
    q, k = flat[layout.query].permute(layout.query_axes), flat[layout.key].permute(layout.key_axes)
    logits = made.permute(layout.logit_axes)
    assert logits.shape[-2:] == (N, M)
    torch.testing.assert_close(q @ k.mT, logits)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bid,bjd", [(B, N, D), (B, M, D)]),  # does not say what it makes
        ("bij->bji", [(B, N, M)]),
        ("bid,bjd,bj->bij", [(B, N, D), (B, M, D), (B, M)]),
        ("bii,bji->bji", [(B, N, N), (B, M, N)]),  # a diagonal
        ("...id,...jd->...ij", [(B, N, D), (M, D)]),  # dots of different length
    ],
)
def test_what_an_equation_does_not_say_is_not_guessed(equation, shapes):
    found, _, _ = product(torch.einsum, equation, *map(torch.randn, shapes))
    assert found is None


@pytest.mark.parametrize(
    ("equation", "axis"),
    [
        ("bhid,bhjd->bhij", -3),  # a softmax over heads
        ("bid,bjd->bij", -3),
        ("bhid,bhjd->bij", -1),  # heads are summed
    ],
)
def test_a_product_that_is_no_attention_has_no_layout(equation, axis):
    sizes = {"b": B, "h": H, "i": N, "j": M, "d": D}
    shapes = [[sizes[one] for one in term] for term in equation.partition("->")[0].split(",")]
    found, _, _ = product(torch.einsum, equation, *map(torch.randn, shapes))
    assert found.layout(axis) is None


@pytest.mark.parametrize("shapes", [((B, H, N, D), (B, H, D, M)), ((B, H, N, D), (H, D, M))])
def test_a_matrix_product_has_transposed_keys(shapes):
    x, y = map(torch.randn, shapes)
    for function, args in ((torch.matmul, (x, y)), (torch.Tensor.__rmatmul__, (y, x))):
        found, made, flat = product(function, *args)
        layout = found.layout(-1)
        q = flat[layout.query].permute(layout.query_axes)
        k = flat[layout.key].permute(layout.key_axes)
        assert q is not k
        torch.testing.assert_close(q @ k.mT, made)
    assert contraction_of(torch.matmul, (x, y[..., 0]), {}, {0: x[0, 0], 1: x[0, 0, 0]}) is None


def test_a_product_that_adds_has_its_factor():
    bias, x, y = torch.randn(B, N, M), torch.randn(B, N, D), torch.randn(B, D, M)
    found, made, flat = product(torch.baddbmm, bias, x, y, beta=0, alpha=0.25)
    layout = found.layout(-1)
    assert (layout.query, layout.key, found.alpha) == (1, 2, 0.25)
    k = flat[2].permute(layout.key_axes)
    torch.testing.assert_close(flat[1] @ k.mT * found.alpha, made)


@pytest.mark.parametrize(
    ("equation", "shapes", "at", "axis"),
    [
        ("bhij,bhjd->bhid", ((B, H, N, M), (B, H, M, D)), 1, -1),
        ("bhij,bjhd->bihd", ((B, H, N, M), (B, M, H, D)), 1, -1),
        ("bcj,bij->bci", ((B, D, M), (B, N, M)), 2, -1),  # values first
    ],
)
def test_values_are_the_other_operand(equation, shapes, at, axis):
    tensors = [torch.randn(shape) for shape in shapes]
    found, made, flat = product(torch.einsum, equation, *tensors)
    position, axes = found.values(at, axis)
    values, p = flat[position].permute(axes), flat[at]
    assert values.shape[-2:] == (M, D)
    torch.testing.assert_close((p @ values).sum(), made.sum())
    assert found.values(at, -2) is None  # queries are not summed over


@pytest.mark.parametrize(
    ("args", "kwargs", "axis"),
    [((None, -1), {}, -1), ((None,), {"dim": 2}, -1), ((None, 0), {}, -3), ((None,), {}, None)],
)
def test_the_axis_of_a_softmax_is_counted_from_the_end(args, kwargs, axis):
    assert softmax_axis(args, kwargs, 3) == axis
