import warnings

import numpy as np
import pytest
import torch
from subjects import awkward, linear, logistic

from qprobe.analyzers.curvature.hessian import hessian
from qprobe.analyzers.curvature.pyhessian_peer import top_eigenvalues, trace
from qprobe.analyzers.curvature.replica import Replica
from qprobe.errors import InputError
from qprobe.stats import hutchinson_trace


@pytest.mark.parametrize("case", [linear, logistic])
def test_closed_form(case):
    subject, matrix = case()
    replica = Replica(subject, 2)
    found = trace(replica, 60, seed=0)
    assert found.stderr is not None
    assert found.draws == 60
    assert abs(found.estimate - float(matrix.trace())) < 3 * found.stderr
    top = top_eigenvalues(replica, hessian(replica), 1, 100, seed=0)
    assert top.values[0] == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-2)


@pytest.mark.parametrize("case", [lambda: linear()[0], lambda: linear(torch.float32)[0], awkward])
def test_residuals_bound_the_distance_to_an_eigenvalue(case):
    replica = Replica(case(), 3)
    operator = hessian(replica)
    eye = torch.eye(operator.size, dtype=operator.dtype)
    spectrum = np.linalg.eigvalsh(torch.stack([operator(row) for row in eye]).double().numpy())
    top = top_eigenvalues(replica, operator, 2, 8, seed=1)
    for value, residual in zip(top.values, top.residuals, strict=True):
        assert np.abs(spectrum - value).min() <= residual + 1e-4 * np.abs(spectrum).max()


def test_our_trace_agrees_within_the_standard_errors():
    replica = Replica(awkward(), 3)
    theirs = trace(replica, 40, seed=0)
    ours = hutchinson_trace(hessian(replica), 40, torch.Generator().manual_seed(5))
    assert theirs.stderr is not None
    assert ours.stderr is not None
    apart = abs(theirs.estimate - ours.estimate)
    assert 0 < apart < 3 * float(np.hypot(theirs.stderr, ours.stderr))


def test_a_negative_trace_is_not_cut_short():
    subject, matrix = linear()
    object.__setattr__(subject, "loss", lambda y, b: -0.5 * (y - b[1]).square().sum(1))
    found = trace(Replica(subject, 2), 30, seed=0)
    assert found.draws == 30
    assert found.stderr is not None
    assert abs(found.estimate + float(matrix.trace())) < 3 * found.stderr


def test_nothing_of_it_stays():
    replica = Replica(awkward(), 2)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(replica, 2, seed=0)
        top_eigenvalues(replica, hessian(replica), 1, 2, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    assert all(value.grad is None for value in replica.values)


def test_a_flat_loss():
    subject, _ = linear()
    object.__setattr__(subject, "loss", lambda output, batch: output.sum(1))
    replica = Replica(subject, 2)
    assert trace(replica, 3, seed=0).estimate == 0.0
    top = top_eigenvalues(replica, hessian(replica), 1, 3, seed=0)
    assert (top.values, top.residuals) == ((0.0,), (0.0,))


def test_one_draw_has_no_standard_error():
    with pytest.raises(InputError, match="at least 2 draws"):
        trace(Replica(linear()[0], 1), 1, seed=0)
