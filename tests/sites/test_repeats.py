"""What a loop repeats is told apart a few times, and counted from then on."""

import pytest
import torch
from torch import nn

from qprobe.sites import trace
from qprobe.sites.calls import Call
from qprobe.sites.repeats import TOLD_APART, Repeats


class Scan(nn.Module):
    """A state that every token gates and adds to, as a Python loop."""

    def __init__(self):
        super().__init__()
        self.stem, self.forget, self.head = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, tokens):
        tokens = self.stem(tokens)
        kept, state, states = self.forget(tokens).sigmoid(), 0.0, []
        for at in range(tokens.shape[1]):
            state = kept[:, at] * state + tokens[:, at]
            states.append(state)
        return self.head(torch.stack(states, 1))


class Depths(nn.Module):
    """More residuals than are told apart of a loop, around layers of their own or around one."""

    def __init__(self, layers, shared):
        super().__init__()
        made = [nn.Linear(4, 4) for _ in range(1 if shared else layers)]
        self.layers = nn.ModuleList(made * layers if shared else made)
        self.stem = nn.Linear(4, 4)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x).relu()
        return x


@pytest.mark.parametrize("tokens", [64, 256])
def test_sites_of_a_scan_do_not_grow_with_its_tokens(tokens):
    short, middle, long = (
        trace(Scan(), torch.randn(2, n, 4)) for n in (TOLD_APART, 2 * TOLD_APART, tokens)
    )
    assert long.sites == middle.sites
    assert set(short.sites) <= set(long.sites)  # what is told apart has its name of a short scan
    gates = [one for one in long.fusions if one.kind == "gate"]
    counted = tokens - 1  # the first turn has nothing to gate
    assert len(gates) + long.repeated["./mul"] == counted
    assert long.repeated["./cat"] == tokens - TOLD_APART  # branches of the one stack
    assert short.repeated == {}


@pytest.mark.parametrize("shared", [False, True])
def test_residuals_around_layers_of_their_own_are_all_told_apart(shared):
    layers = 2 * TOLD_APART
    found = trace(Depths(layers, shared), torch.randn(2, 4))
    assert len(found.fusions) == layers - (found.repeated["./add"] if shared else 0)
    assert bool(found.repeated) == shared


def test_one_fusion_of_the_same_operation_does_not_count_for_another():
    repeats = Repeats()
    for turn in range(TOLD_APART):
        assert not repeats.beyond(Call("a", "add", turn), [("x",), (f"a/add.{turn}",)])
    for other in (Call("b", "add", 0), Call("a", "mul", 0)):
        assert not repeats.beyond(other, [("x",), ("a/add.0",)])
    assert not repeats.beyond(Call("a", "add", 98), [("y",), ("a/add.9",)])
    assert repeats.beyond(Call("a", "add", 99), [("x",), ("a/add.9",)])
    assert repeats.left_out == {"a/add": 1}
