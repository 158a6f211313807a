"""Functions of a watched model that are transformed by torch.func and then compiled."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

import qprobe

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch._prims_common.check` is deprecated:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Attends(nn.Module):
    """Compiled, its logits go through the other operation of a graph."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        one = x.view(-1, 1, 8)
        return self.attention(one, one, one)[0]


def layers():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def gradient_of(model):
    def loss(parameters, one):
        return functional_call(model, parameters, (one,)).square().sum()

    return grad(loss)


TRANSFORMED = {
    "vmap of grad": lambda m: vmap(gradient_of(m), (None, 0)),
    "vmap": lambda m: lambda _, x: {"y": vmap(m)(x)},
    "jacrev": lambda m: lambda _, x: {"y": jacrev(m)(x)},
    "grad": gradient_of,
}


def bits(transformed, make, backend, *, watch):
    """What two calls of a compiled function give, and of which sites something was recorded."""
    torch.manual_seed(0)
    model, x = make(), torch.randn(5, 8)
    run, given = None, dict(model.named_parameters())
    if not watch:
        run = torch.compile(TRANSFORMED[transformed](model), backend=backend)
        return [run(given, x) for _ in range(2)], set()
    with qprobe.attach(model, every=1) as session:
        run = torch.compile(TRANSFORMED[transformed](model), backend=backend)
        found = []
        for _ in range(2):
            found.append(run(given, x))
            session.step()
    return found, {(r.step, r.role) for r in session.records() if r.probe == "moments"}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("transformed", "make"), [*((one, layers) for one in TRANSFORMED), ("vmap of grad", Attends)]
)
@pytest.mark.filterwarnings("ignore:planned and never seen:UserWarning")
def test_a_compiled_transform_keeps_its_bits(transformed, make, backend):
    plain, _ = bits(transformed, make, backend, watch=False)
    torch._dynamo.reset()
    seen, _ = bits(transformed, make, backend, watch=True)
    for one, other in zip(plain, seen, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_vmap_alone_runs_is_not_looked_at_and_that_is_said():
    with pytest.warns(UserWarning, match=r"never seen so far: .* inside torch\.func\.vmap alone"):
        _, recorded = bits("vmap of grad", layers, "aot_eager", watch=True)
    assert {role for _, role in recorded} == {"weight"}


def test_a_compiled_gradient_without_vmap_is_looked_at():
    _, recorded = bits("grad", layers, "aot_eager", watch=True)
    assert {(1, "input"), (1, "grad_output")} <= recorded
