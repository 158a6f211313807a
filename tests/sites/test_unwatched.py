import torch
from torch import nn
from torch.nn.utils import parametrizations

from qprobe.models import build
from qprobe.sites.unwatched import unwatched


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(3, 5))
        self.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)
        self.scale = nn.Parameter(torch.zeros(3))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 4, 8))
        self.table = Table()
        self.rest = nn.Sequential(
            nn.Embedding(5, 8),
            nn.MultiheadAttention(8, 2),
            parametrizations.weight_norm(nn.Linear(8, 8)),
            nn.LayerNorm([4, 8]),
            nn.Conv1d(8, 8, 1),
        )


def test_what_belongs_to_no_site():
    assert unwatched(Positions()) == {"table": 15}


class Experts(nn.Module):
    """As transformers keep them: one tensor for all, and an activation function inside."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up, self.act = nn.Parameter(torch.zeros(4, 6, 3)), nn.SiLU()


def test_experts_in_one_tensor_are_told_though_a_module_is_inside():
    model = nn.ModuleDict({"experts": Experts(), "attention": nn.MultiheadAttention(4, 2)})
    assert unwatched(model) == {"experts": 4 * 6 * 3}


def test_recurrent_layers_and_cells():
    model = nn.ModuleDict({"rnn": nn.GRU(4, 5, num_layers=2), "cell": nn.LSTMCell(4, 5)})
    gru = 3 * 5 * (4 + 5) + 3 * 5 * (5 + 5)
    assert unwatched(model) == {"rnn": gru, "cell": 4 * 5 * (4 + 5)}


def test_a_shared_module_is_told_once():
    cell = nn.LSTMCell(2, 2)
    assert unwatched(nn.Sequential(cell, cell)) == {"0": 32}


def test_our_own_models_hide_nothing():
    for arch in ("cnn", "vit", "swin"):
        assert unwatched(build(arch, "tiny", image=32, in_channels=1)) == {}
