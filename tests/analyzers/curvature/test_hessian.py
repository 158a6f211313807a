import pytest
import torch
from subjects import awkward, linear, logistic

from qprobe.analyzers.curvature.hessian import flat, gradient, hessian, parts
from qprobe.analyzers.curvature.replica import Replica


def dense(operator):
    return torch.stack([operator(row) for row in torch.eye(operator.size, dtype=torch.float64)])


@pytest.mark.parametrize("case", [linear, logistic])
@pytest.mark.parametrize("keep", [True, False])
def test_closed_form(case, keep):
    subject, matrix = case()
    torch.testing.assert_close(dense(hessian(Replica(subject, 2), keep=keep)), matrix)


def test_gradient_of_least_squares():
    subject, _ = linear()
    x, t = (torch.cat(parts) for parts in zip(*subject.batches(), strict=True))
    weight = subject.model[0].weight.detach()
    expected = (x @ weight.T - t).T @ x / len(x)
    torch.testing.assert_close(gradient(Replica(subject, 2)), expected.flatten())


def test_parameters_without_curvature_have_rows_of_zeros():
    replica = Replica(awkward(), 3)
    operator = hessian(replica)
    assert operator.asymmetry(torch.Generator().manual_seed(0)) < 1e-5
    product = operator(torch.ones(operator.size))
    by_name = dict(zip(replica.names, parts(product, replica.values), strict=True))
    assert not by_name["unused.weight"].any()
    assert by_name["frozen.weight"].any()


def test_only_a_loss_that_is_linear_everywhere_has_no_curvature():
    subject, _ = linear()
    object.__setattr__(subject, "loss", lambda output, batch: output.sum(1))
    operator = hessian(Replica(subject, 2))
    assert not operator(torch.ones(operator.size)).any()


def test_parts_are_the_inverse_of_flat():
    values = [torch.randn(2, 3), torch.randn(4)]
    back = parts(flat([values[0], None], values), values)
    assert torch.equal(back[0], values[0])
    assert torch.equal(back[1], torch.zeros(4))
