import pytest
import torch

from qprobe.errors import InputError
from qprobe.stats import pair


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3), (pair.PIECE * 2 + 1,)])
def test_pieces_hold_each_element_once_in_order(shape):
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    runs = [run for (run,) in pair.pieces(x)]
    assert torch.equal(torch.cat(runs), x.double().reshape(-1))
    assert all(len(run) <= pair.PIECE for run in runs)


def test_pieces_of_a_transposed_tensor_stay_aligned():
    x = torch.randn(7, 5).T
    for one, two in pair.pieces(x, x.clone(memory_format=torch.contiguous_format)):
        assert torch.equal(one, two)


def test_integers_and_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"floating-point numbers, got torch.int64"):
        pair.check(torch.zeros(2), torch.zeros(2, dtype=torch.int64), "weights")
    with pytest.raises(InputError, match=r"weights have one shape, got \(2,\) and \(3,\)"):
        pair.check(torch.zeros(2), torch.zeros(3), "weights")


def test_products_are_taken_in_float64():
    x = torch.full((4096,), 0.1, dtype=torch.bfloat16)
    value = float(x[0])
    assert pair.products(x, x).item() == pytest.approx(4096 * value * value, rel=1e-15)
