"""A capture that is entered before compiling: no graph break, and the numbers arrive."""

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from qprobe.records.schema import Role
from qprobe.sites import Capture, Tap, discover


@torch.library.custom_op("qprobe_tests::look", mutates_args=("state",))
def look(x: Tensor, state: Tensor) -> None:
    state += x.double().pow(2).sum()


@look.register_fake
def _(x, state):
    return None


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.act, self.tap = nn.Linear(4, 8), nn.ReLU(inplace=True), Tap("hidden")
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.norm(self.tap(self.act(self.stem(x)))))


def passed(model, states, sites):
    def receive(site, tensor):
        look(tensor, states[site])

    return Capture(model, sites, receive)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_graph_and_the_same_numbers_as_in_eager(backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, 4)
    sites = [s for s in discover(model) if s.role not in (Role.WEIGHT, Role.GRAD_WEIGHT)]
    results = []
    counters.clear()
    for compiled in (False, True):
        states = {site: torch.zeros((), dtype=torch.float64) for site in sites}
        with passed(model, states, sites):
            run = torch.compile(model, backend=backend, fullgraph=True) if compiled else model
            for _ in range(2):
                model.zero_grad()
                run(x).pow(2).sum().backward()
            gradients = [p.grad.clone() for p in model.parameters()]
        results.append((list(states.values()), gradients))
    assert counters["stats"]["unique_graphs"] == 1  # two steps, no recompilation
    (eager, grads), (traced, traced_grads) = results
    assert all(float(value) > 0 for value in eager)
    torch.testing.assert_close(traced, eager)
    torch.testing.assert_close(traced_grads, grads, rtol=1e-6, atol=1e-6)


def test_a_tap_breaks_no_graph():
    torch._dynamo.reset()
    model, x = Model(), torch.randn(3, 4)
    explained = torch._dynamo.explain(model)(x)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
