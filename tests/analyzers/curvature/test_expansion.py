import numpy as np
import pytest
import torch
from subjects import awkward, linear, logistic, squares, subject
from torch import nn

from qprobe.analyzers.curvature.expansion import changed_losses, expand, weighted
from qprobe.analyzers.curvature.hessian import gradient, hessian, parts
from qprobe.analyzers.curvature.replica import Replica


def changes(replica, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = sum(value.numel() for value in replica.values)
    vectors = [torch.randn(size, generator=generator).to(replica.values[0]) for _ in range(2)]
    split = [dict(zip(replica.names, parts(v, replica.values), strict=True)) for v in vectors]
    return vectors, split


@pytest.mark.parametrize("case", [linear, logistic])
def test_closed_form(case):
    made, matrix = case()
    replica = Replica(made, 2)
    vectors, split = changes(replica)
    found = expand(replica, split)
    second = [[float(a @ matrix @ b) for a in vectors] for b in vectors]
    for i in range(2):
        slope = float(vectors[i] @ gradient(replica))
        assert found.mean(found.first[:, i])[0] == pytest.approx(slope)
        for j in range(2):
            assert found.mean(found.second[:, i, j])[0] == pytest.approx(second[i][j])


def test_it_is_the_operator_between_the_changes():
    replica = Replica(awkward(), 3)
    vectors, split = changes(replica)
    operator = hessian(replica)
    found = expand(replica, split)
    expected = float(vectors[0].double() @ operator(vectors[1]).double())
    assert found.mean(found.second[:, 0, 1])[0] == pytest.approx(expected, rel=1e-3)


def test_least_squares_is_its_own_expansion():
    replica = Replica(linear()[0], 2)
    _, (change, _) = changes(replica)
    found = expand(replica, [change])
    predicted = found.first[:, 0] + 0.5 * found.second[:, 0, 0]
    assert predicted == pytest.approx(changed_losses(replica, change))


def test_units_divide_few_batches_and_no_patient():
    x = torch.arange(12.0)[:, None].expand(12, 8).contiguous()
    owner = {0.0: "a", 1.0: "a", 2.0: "a", 11.0: "a"}

    def groups(batch):
        return [owner.get(float(value), str(value)) for value in batch[0][:, 0]]

    batches = [(x, torch.zeros(12, 8))]
    whole = Replica(subject(nn.Sequential(nn.Linear(8, 8)), batches), 1)
    change = {whole.names[0]: torch.ones(8, 8)}
    assert expand(whole, [change]).samples.tolist() == [2, 1, 2, 1, 2, 1, 2, 1]
    grouped = Replica(subject(nn.Sequential(nn.Linear(8, 8)), batches, groups=groups), 1)
    sizes = expand(grouped, [change]).samples
    assert (sizes.sum(), len(sizes)) == (12, 8)
    assert sizes[0] >= 4  # all four of the patient, wherever they are in the batch


def test_the_standard_error_is_that_of_repeated_draws():
    draw = np.random.default_rng(0)
    samples = draw.integers(1, 9, 40).astype(float)
    means, errors = zip(
        *(weighted(draw.normal(size=40) / np.sqrt(samples), samples) for _ in range(2000)),
        strict=True,
    )
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_what_does_not_reach_the_loss_changes_nothing():
    replica = Replica(awkward(), 2)
    found = expand(replica, [{"unused.weight": torch.ones(3, 8)}])
    assert not found.first.any()
    assert not found.second.any()


def test_several_batches_are_units_themselves():
    batches = [(torch.randn(2, 8), torch.randn(2, 8)) for _ in range(9)]
    replica = Replica(subject(nn.Sequential(nn.Linear(8, 8)), batches, squares), 9)
    assert len(expand(replica, [{"0.weight": torch.ones(8, 8)}]).samples) == 9
