import pytest
import torch
from torch import nn

from qprobe.errors import InputError
from qprobe.sites import Tap


def test_values_and_gradients_pass_unchanged():
    x = torch.randn(3, 4, requires_grad=True)
    y = Tap("here")(x)
    assert torch.equal(y, x)
    y_is_a_view = y._is_view()
    assert not y_is_a_view
    y.mul(2).sum().backward()
    assert torch.equal(x.grad, torch.full((3, 4), 2.0))


def test_what_follows_may_write_in_place():
    model = nn.Sequential(nn.Linear(4, 4), Tap("before"), nn.ReLU(inplace=True))
    model(torch.randn(2, 4)).sum().backward()
    assert model[0].weight.grad is not None


def test_a_checkpoint_does_not_know_it():
    assert Tap("here").state_dict() == {}


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a/b", "a\n"])
def test_a_name_is_one_word(name):
    with pytest.raises(InputError, match="named by one word"):
        Tap(name)


def test_more_than_one_tensor_is_refused():
    with pytest.raises(InputError, match="'pair' takes one tensor, got tuple"):
        Tap("pair")((torch.ones(1), torch.ones(1)))
