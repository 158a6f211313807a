import pytest
import torch
from torch import nn

from qprobe import checkpoints
from qprobe.errors import InputError


def model(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


@pytest.fixture
def saved(tmp_path):
    def saved_(state):
        torch.save(state, tmp_path / "m.pt")
        return checkpoints.open(tmp_path / "m.pt")

    return saved_


def test_every_weight_and_buffer_is_loaded(saved):
    torch.manual_seed(0)
    source, target = model(), model()
    source(torch.randn(5, 3))  # moves the statistics of the normalisation
    checkpoints.load_into(target, saved(source.state_dict()))
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]), name
    assert target[0].weight.requires_grad


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("0.weight"), r"lacks 0\.weight of the model"),
        (lambda s: s.update(new=torch.ones(1)), "the model has no new of"),
        (
            lambda s: s.update({"0.weight": torch.ones(4, 2)}),
            r"has 0\.weight \[4, 2\] where the model has \[4, 3\]",
        ),
        (lambda s: [s.pop(name) for name in list(s)[1:]], "and 4 more of the model"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(saved, change, says):
    state, target = model().state_dict(), model()
    change(state)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(InputError, match=says):
        checkpoints.load_into(target, saved(state))
    assert all(torch.equal(t, before[n]) for n, t in target.state_dict().items())


def test_packed_weights_are_decoded(saved):
    target = nn.Linear(32, 1, bias=False)
    state = {
        "weight": torch.full((1, 16), 0x72, dtype=torch.uint8),  # codes 2 and 7: 1 and 6
        "weight_scale": torch.full((1, 2), 2.0).to(torch.float8_e4m3fn),
        "weight_scale_2": torch.tensor(0.5),
    }
    checkpoints.load_into(target, saved(state))
    assert target.weight[0].tolist() == [1.0, 6.0] * 16
    with pytest.raises(InputError, match=r"has weight \[1, 32\] where the model has \[1, 16\]"):
        checkpoints.load_into(nn.Linear(16, 1, bias=False), saved(state))
