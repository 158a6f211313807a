import math

import numpy as np
import pytest
import torch
from scipy.linalg import eigh, toeplitz
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import norm

from qprobe.errors import InputError
from qprobe.stats import (
    End,
    Operator,
    block_traces,
    hutchinson_trace,
    quadratic_form,
    spectral_density,
    top_eigenvalues,
)
from qprobe.stats.curvature import lanczos

SPECTRA = {
    "separate": [9.0, 5.0, 2.0, 1.0, 0.5, 0.1],
    "clustered": [5.0, 5.0 - 1e-6, 5.0 - 2e-6, 1.0, 1.0 + 1e-7, 0.0],
    "multiple": [5.0, 5.0, 5.0, 1.0, 1.0, -2.0],
    "negative": [-1.0, -3.0, -3.0, -8.0, -0.5, -20.0],
    "mixed": [4.0, -4.0, 2.0, -2.0, 0.0, 0.0],
    "zero": [0.0] * 6,
    "tiny": [1e-12, 2e-12, -3e-12, 0.0, 0.0, 5e-13],
    "huge": [1e12, 1.0, -1e-12, 0.0, 3e11, -2e12],
}


def turned(spectrum, seed=3):
    """A dense symmetric matrix with exactly these eigenvalues, up to rounding."""
    size = len(spectrum)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    matrix = (q * np.asarray(spectrum)) @ q.T
    return torch.from_numpy((matrix + matrix.T) / 2)


def operator_of(matrix, dtype=torch.float64):
    return Operator(matvec=matrix.to(dtype).mv, size=len(matrix), dtype=dtype)


@pytest.fixture(params=SPECTRA)
def spectrum(request):
    return SPECTRA[request.param]


@pytest.mark.parametrize("end", End)
def test_all_eigenvalues_are_found_with_their_multiplicity(spectrum, end, generator):
    matrix = turned(spectrum)
    found = top_eigenvalues(operator_of(matrix), 6, 10, generator, end)
    key = {End.LARGEST: lambda v: -v, End.SMALLEST: lambda v: v, End.MAGNITUDE: lambda v: -abs(v)}
    scale = max(map(abs, spectrum))
    for values in (found.values, found.values[::-1]):
        assert np.allclose(sorted(values), sorted(spectrum), rtol=0, atol=1e-12 * scale)
    ordered = [key[end](value) for value in found.values]
    assert ordered == sorted(ordered)
    assert found.residuals == (0.0,) * 6
    assert found.products == 6
    product = found.vectors @ matrix
    assert torch.allclose(
        product,
        torch.tensor(found.values, dtype=torch.float64)[:, None] * found.vectors,
        rtol=0,
        atol=1e-10 * scale,
    )
    assert torch.allclose(found.vectors @ found.vectors.T, torch.eye(6).double(), atol=1e-10)


@pytest.mark.parametrize("end", [End.LARGEST, End.SMALLEST, End.MAGNITUDE])
def test_the_ends_of_a_large_spectrum_are_scipys(end, generator):
    matrix = turned(np.concatenate([np.linspace(-1, 1, 300), [30.0, 12.0, -25.0]]))
    found = top_eigenvalues(operator_of(matrix), 3, 60, generator, end)
    which = {End.LARGEST: "LA", End.SMALLEST: "SA", End.MAGNITUDE: "LM"}[end]
    foreign = LinearOperator(matrix.shape, matvec=lambda v: matrix.numpy() @ v, dtype=np.float64)
    expected = eigsh(foreign, k=3, which=which, return_eigenvectors=False)
    for value, other, bound in zip(
        sorted(found.values), sorted(expected), found.residuals, strict=True
    ):
        assert value == pytest.approx(other, abs=0.05)
        assert bound < 0.5
    assert found.products == 60


@pytest.mark.parametrize("steps", [3, 6, 12, 25])
def test_an_eigenvalue_lies_within_each_residual_bound(steps, generator):
    spectrum = np.random.default_rng(5).normal(size=80) ** 3
    matrix = turned(spectrum)
    found = top_eigenvalues(operator_of(matrix), 3, steps, generator, End.MAGNITUDE)
    for value, bound, vector in zip(found.values, found.residuals, found.vectors, strict=True):
        assert np.abs(spectrum - value).min() <= bound + 1e-12
        true = (matrix @ vector - value * vector).norm().item()
        assert true == pytest.approx(bound, rel=1e-6, abs=1e-12)
    assert max(found.values) <= spectrum.max() + 1e-12
    assert min(found.values) >= spectrum.min() - 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_basis_stays_orthonormal(dtype, generator):
    """A spectrum on which Lanczos without reorthogonalisation loses it within 20 steps."""
    matrix = turned(np.concatenate([[1e6], np.linspace(0, 1, 120)]))
    operator = operator_of(matrix, dtype)
    basis = lanczos(operator, operator.draw(generator), 80).basis
    gram = (basis @ basis.T).double()
    assert (gram - torch.eye(len(basis))).abs().max() < 20 * torch.finfo(dtype).eps


def test_lanczos_ends_where_it_cannot_go_on_and_restarts_where_it_may(generator):
    matrix = torch.diag(torch.tensor([2.0, 2.0, 2.0, 7.0], dtype=torch.float64))
    operator = operator_of(matrix)
    short = lanczos(operator, torch.ones(4), 4)
    assert short.eigen()[0].tolist() == pytest.approx([2.0, 7.0])
    assert short.residual == 0.0
    full = lanczos(operator, torch.ones(4), 4, restart=generator)
    assert full.eigen()[0].tolist() == pytest.approx([2.0, 2.0, 2.0, 7.0])


def test_float32_products_lose_no_more_than_float32(generator):
    matrix = turned(np.concatenate([[100.0, 50.0], np.linspace(0, 1, 60)]))
    found = top_eigenvalues(operator_of(matrix, torch.float32), 2, 20, generator)
    assert found.values == pytest.approx((100.0, 50.0), rel=1e-6)
    assert found.vectors.dtype is torch.float32


def test_the_trace_is_exact_for_a_diagonal(spectrum, generator):
    found = hutchinson_trace(
        operator_of(torch.diag(torch.tensor(spectrum, dtype=torch.float64))), 4, generator
    )
    assert found.estimate == pytest.approx(sum(spectrum), rel=1e-12, abs=1e-20)
    assert found.draws == 4


def test_the_trace_is_unbiased_with_the_stated_variance(generator):
    matrix = torch.from_numpy(toeplitz(0.5 ** np.arange(12.0)))
    found = hutchinson_trace(operator_of(matrix), 4000, generator)
    variance = 2 * (matrix.square().sum() - matrix.diagonal().square().sum()).item()
    assert found.stderr == pytest.approx(math.sqrt(variance / 4000), rel=0.1)
    assert abs(found.estimate - 12.0) < 4 * found.stderr


def test_the_standard_error_covers_the_truth(generator):
    matrix = turned(np.linspace(-1, 3, 40))
    inside = 0
    for _ in range(300):
        found = hutchinson_trace(operator_of(matrix), 30, generator)
        inside += abs(found.estimate - 40.0) < norm.ppf(0.975) * found.stderr
    assert 270 <= inside <= 297


def test_one_draw_has_no_standard_error(generator):
    assert hutchinson_trace(operator_of(torch.eye(3).double()), 1, generator).stderr is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_quadratic_form_of_an_explicit_matrix(dtype):
    matrix = torch.tensor([[2.0, -1.0], [-1.0, -3.0]], dtype=torch.float64)
    d = torch.tensor([1.0, 2.0], dtype=dtype)
    assert quadratic_form(operator_of(matrix), d) == 2 - 4 - 12


def test_the_curvature_of_linear_regression_through_autograd(generator):
    """Loss ½·mean (x·w − y)²: the Hessian is XᵀX/n, whatever y."""
    x = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    y = torch.randn(50, generator=generator, dtype=torch.float64)
    w = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    loss = 0.5 * (x @ w - y).square().mean()
    (gradient,) = torch.autograd.grad(loss, w, create_graph=True)

    def product(v):
        return torch.autograd.grad(gradient, w, v, retain_graph=True)[0]

    operator = Operator(matvec=product, size=8)
    hessian = (x.T @ x / 50).numpy()
    values = eigh(hessian, eigvals_only=True)
    assert top_eigenvalues(operator, 8, 8, generator).values == pytest.approx(values[::-1])
    found = hutchinson_trace(operator, 200, generator)
    assert abs(found.estimate - np.trace(hessian)) < 4 * found.stderr
    assert operator.asymmetry(generator) < 1e-14


def test_the_quadrature_is_exact_where_there_are_few_different_eigenvalues(generator):
    """All weight lies at the eigenvalues: the direction's squared part in each eigenspace."""
    spectrum = np.array([3.0] * 5 + [-1.0] * 3 + [0.0] * 2)
    matrix = turned(spectrum)
    again = generator.clone_state()
    found = spectral_density(operator_of(matrix), 6, 10, generator)
    spaces = eigh(matrix.numpy())[1]
    for nodes, weights in zip(found.nodes, found.weights, strict=True):
        parts = (spaces.T @ operator_of(matrix).draw(again).numpy()) ** 2
        parts /= parts.sum()
        for value, space in ((-1.0, parts[:3]), (0.0, parts[3:5]), (3.0, parts[5:])):
            near = np.abs(nodes - value) < 1e-9
            assert weights[near].sum() == pytest.approx(space.sum(), rel=1e-6)


def test_moments_of_one_direction_are_exact_to_twice_the_steps(generator):
    matrix = turned(np.linspace(-2, 2, 30))
    operator = operator_of(matrix)
    v = operator.draw(generator)
    found = lanczos(operator, v, 4).eigen()
    v = v / v.norm()
    for power in range(8):
        exact = v @ torch.linalg.matrix_power(matrix, power) @ v
        assert np.dot(found[1][0] ** 2, found[0] ** power) == pytest.approx(exact.item(), abs=1e-11)
    wrong = v @ torch.linalg.matrix_power(matrix, 8) @ v
    assert np.dot(found[1][0] ** 2, found[0] ** 8) != pytest.approx(wrong.item(), abs=1e-6)


def test_means_over_the_spectrum_are_unbiased_with_their_error(spectrum, generator):
    found = spectral_density(operator_of(turned(spectrum)), 500, 6, generator)
    for power in (1, 2):
        mean = found.mean(lambda x, power=power: x**power)
        truth = np.mean(np.asarray(spectrum) ** power)
        assert abs(mean.estimate - truth) <= 4 * mean.stderr + 1e-9 * abs(truth)
        assert mean.draws == 500


def test_the_density_is_the_smoothed_histogram_of_eigenvalues(generator):
    spectrum = np.concatenate([np.full(70, -1.0), np.full(30, 2.0)])
    grid = np.linspace(-4, 5, 400)
    found = spectral_density(operator_of(turned(spectrum)), 60, 8, generator)
    expected = 0.7 * norm.pdf(grid, -1.0, 0.3) + 0.3 * norm.pdf(grid, 2.0, 0.3)
    assert np.abs(found.density(grid, 0.3) - expected).max() < 0.04
    assert np.trapezoid(found.density(grid, 0.3), grid) == pytest.approx(1.0, abs=1e-6)
    share = found.share_below(0.0)
    assert abs(share.estimate - 0.7) < 4 * share.stderr


def test_draws_follow_the_generator():
    operator = operator_of(turned(np.linspace(-1, 3, 20)))
    one, two, other = (
        hutchinson_trace(operator, 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert one == two
    assert one != other


def test_what_changes_between_calls_is_asymmetric(generator):
    matrix = turned(np.linspace(-1, 3, 20))
    noise = torch.Generator().manual_seed(1)

    def dropped(v):
        return matrix @ v * (torch.rand(20, generator=noise) < 0.5)

    assert Operator(matvec=dropped, size=20).asymmetry(generator) > 1e-3
    assert operator_of(matrix).asymmetry(generator) < 1e-15
    assert operator_of(torch.zeros(3, 3).double()).asymmetry(generator) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o, g: o(torch.ones(3)), r"v of shape \(4,\), got \(3,\)"),
        (lambda o, g: hutchinson_trace(o, 0, g), "draws is at least 1, got 0"),
        (lambda o, g: lanczos(o, torch.ones(4), 0), "steps is at least 1"),
        (lambda o, g: lanczos(o, torch.zeros(4), 2), "finite vector that is not zero"),
        (lambda o, g: top_eigenvalues(o, 5, 9, g), "5 eigenvalues of a matrix of 4 rows"),
        (lambda o, g: top_eigenvalues(o, 3, 2, g), "got 2 steps"),
        (lambda o, g: spectral_density(o, 1, 2, g).density(np.zeros(1), 0.0), "width .* positive"),
        (lambda o, g: Operator(matvec=o.matvec, size=0), "at least one row"),
    ],
)
def test_what_cannot_be_asked_is_refused(call, message, generator):
    with pytest.raises(InputError, match=message):
        call(operator_of(torch.eye(4).double()), generator)


@pytest.mark.parametrize(
    ("product", "message"),
    [
        (lambda v: v[:2], r"H·v has shape \(2,\), expected \(4,\)"),
        (lambda v: v * math.nan, "NaN or infinity"),
        (lambda v: v / 0, "NaN or infinity"),
    ],
)
def test_products_that_cannot_be_are_refused(product, message):
    with pytest.raises(InputError, match=message):
        Operator(matvec=product, size=4)(torch.ones(4))


def test_traces_of_blocks(generator):
    matrix = turned([9.0, 5.0, 2.0, 1.0, 0.5, 0.1])
    found = block_traces(operator_of(matrix), [1, 3, 2], 400, generator)
    for one, at, size in zip(found, (0, 1, 4), (1, 3, 2), strict=True):
        assert one.stderr is not None
        exact = float(matrix[at : at + size, at : at + size].trace())
        assert abs(one.estimate - exact) < 3.5 * one.stderr


@pytest.mark.parametrize("sizes", [[], [6, 0], [3, 2], [4, 4]])
def test_blocks_make_up_the_operator(sizes, generator):
    with pytest.raises(InputError, match="do not make up an operator of 6 rows"):
        block_traces(operator_of(turned(SPECTRA["mixed"])), sizes, 2, generator)
