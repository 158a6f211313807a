"""A capture that is entered before compiling: no graph break, and the numbers arrive."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from qprobe.records.schema import Role
from qprobe.sites import Capture, Tap, discover

BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
#: PyTorch's own, from inside its compiler.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.act, self.tap = nn.Linear(4, 8), nn.ReLU(inplace=True), Tap("hidden")
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 8)


class Plain(Layers):
    def forward(self, x):
        return self.head(self.norm(self.tap(self.act(self.stem(x)))))


class Recomputed(Layers):
    def forward(self, x):
        hidden = checkpoint(lambda y: self.act(self.norm(y)) * 2, self.stem(x), use_reentrant=False)
        return self.head(self.tap(hidden))


class Viewed(Layers):
    def forward(self, x):
        hidden = self.norm(self.stem(x)).view(-1, 2, 4).transpose(0, 1)
        return self.head(self.tap(hidden.mul(2).transpose(0, 1).reshape(-1, 8)))


class Overwritten(Layers):
    """The output of an instance norm is a view, and what follows writes into it."""

    def __init__(self):
        super().__init__()
        self.instance = nn.InstanceNorm1d(3)

    def forward(self, x):
        hidden = self.instance(self.stem(x).unsqueeze(0))
        return self.head(self.norm(self.tap(self.act(hidden))[0]))


class Kept:
    """What a model makes in a pass and writes to, as decoders do with keys and values."""

    def __init__(self, x):
        self.x, self.made = x, []

    def update(self, x):
        self.x = x
        self.made.append(x)
        return self.x


class Keeping(Layers):
    def forward(self, x):
        kept = Kept(x)
        hidden = self.norm(kept.update(self.stem(x)))
        kept.update(self.tap(hidden * 2))
        return self.head(kept.x) + kept.made[0]


def loss(out):
    return out.pow(2).sum()


def trained(model, run, x):
    kept = []
    for _ in range(2):
        model.zero_grad()
        out = run(x)
        loss(out).backward()
        kept += [out.detach().clone(), *(p.grad.clone() for p in model.parameters())]
    return kept


def passing(model):
    learned = (Role.WEIGHT, Role.GRAD_WEIGHT)
    return [site for site in discover(model) if site.role not in learned]


class Sums:
    """What has come from each site."""

    def __init__(self):
        self.found = {}

    def __call__(self, site, tensor):
        sums = self.found.setdefault(site, [])
        sums.append(float(tensor.double().pow(2).sum()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", [Plain, Recomputed, Viewed, Keeping, Overwritten])
def test_one_graph_with_the_bits_it_has_unwatched_and_the_numbers_of_eager(make, backend):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    plain = make()
    expected = trained(plain, torch.compile(plain, backend=backend, fullgraph=True), x)
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        counters.clear()
        model, sums = make(), Sums()
        with Capture(model, passing(model), sums) as capture:
            run = torch.compile(model, backend=backend, fullgraph=True) if compiled else model
            kept = trained(model, run, x)
        assert capture.missed == ()
        found.append(sums.found)
    assert counters["stats"]["unique_graphs"] == 1  # two steps, no recompilation
    assert all(map(torch.equal, kept, expected))
    eager, traced = found
    assert {len(sums) for sums in eager.values()} == {2}
    assert traced.keys() == eager.keys()
    for site, sums in eager.items():
        assert traced[site] == pytest.approx(sums, rel=1e-5, abs=1e-9), site


def test_a_gradient_that_is_differentiated_again_is_handed_over_as_in_eager():
    found, kept = [], []
    for watched, compiled in ((False, True), (True, False), (True, True)):
        torch._dynamo.reset()
        model, sums = Plain(), Sums()
        x = torch.ones(3, 4, requires_grad=True)
        with Capture(model, passing(model) if watched else (), sums):
            run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
            (gradient,) = torch.autograd.grad(loss(run(x)), x, create_graph=True)
            gradient.pow(2).sum().backward()
        kept.append([x.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
        found.append(sums.found)
    for others in kept[1:]:
        assert all(map(torch.equal, kept[0], others))
    assert max(len(sums) for sums in found[1].values()) == 2
    assert found[2] == found[1]


class Breaking(Layers):
    def forward(self, x):
        hidden = self.norm(self.stem(x))
        torch._dynamo.graph_break()
        return self.head(self.tap(hidden))


class Recurrent(Layers):
    """Which the compiler leaves alone, with all around it."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.GRU(8, 8)

    def forward(self, x):
        return self.head(self.tap(self.recurrent(self.norm(self.stem(x)))[0]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", [Breaking, Recurrent])
def test_of_a_model_that_breaks_its_graph_itself_everything_is_seen(make, backend):
    x, found = torch.randn(3, 4), []
    plain = make()
    expected = trained(plain, torch.compile(plain, backend=backend), x)
    for compiled in (False, True):
        torch._dynamo.reset()
        model, sums = make(), Sums()
        with Capture(model, passing(model), sums) as capture:
            kept = trained(model, torch.compile(model, backend=backend) if compiled else model, x)
        assert capture.missed == ()
        found.append(sums.found)
    # Inductor orders sums otherwise, and gets other parts of the model where there are hooks.
    exact = 1e-6 if backend == "inductor" else 0
    torch.testing.assert_close(kept, expected, rtol=exact, atol=exact)
    eager, traced = found
    assert traced.keys() == eager.keys()
    for site, sums in eager.items():
        assert traced[site] == pytest.approx(sums, rel=1e-5, abs=1e-9), site


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_a_graph_that_has_none_are_missed(backend):
    model, sums = Plain(), Sums()
    with Capture(model, passing(model), sums) as capture:
        run = torch.compile(lambda x: model(x).detach(), backend=backend, fullgraph=True)
        run(torch.randn(3, 4))
    assert {site.role for site in sums.found} == {Role.INPUT, Role.OUTPUT}
    assert {site.role for site in capture.missed} == {Role.GRAD_OUTPUT}


def test_compiled_code_hands_over_what_is_armed_until_the_context_is_left():
    model, sums, x = Plain(), Sums(), torch.randn(3, 4)
    sites = passing(model)
    run = torch.compile(model, backend="aot_eager", fullgraph=True)
    with Capture(model, sites, sums) as capture:
        capture.arm(())
        loss(run(x)).backward()
        assert sums.found == {}
        capture.arm(sites[1:3])
        loss(run(x)).backward()
        assert set(sums.found) == set(sites[1:3])
        capture.arm(None)
        of_backward = loss(run(x))
        before = {site: list(found) for site, found in sums.found.items()}
    of_backward.backward()  # the graph runs on, and nobody listens
    assert sums.found == before
    loss(run(x)).backward()
    assert sums.found == before
    assert counters["stats"]["unique_graphs"] == 2  # the second when no hook was left


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_hands_nothing_over(strict):
    model, sums, x = Plain(), Sums(), torch.randn(3, 4)
    with Capture(model, passing(model), sums):
        exported = torch.export.export(model, (x,), strict=strict)
        assert torch.equal(exported.module()(x), Plain()(x))
    targets = [str(node.target) for node in exported.graph.nodes]
    assert not [one for one in targets if "qprobe" in one or "observe" in one]
    assert sums.found == {}


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace_method:DeprecationWarning")
def test_a_traced_script_holds_the_model_alone():
    model, sums, x = Plain(), Sums(), torch.randn(3, 4)
    expected = str(torch.jit.trace(Plain(), x).inlined_graph)
    with Capture(model, passing(model), sums):
        traced = torch.jit.trace(model, x, check_trace=False)
    assert sums.found == {}
    assert str(traced.inlined_graph).count("aten::") == expected.count("aten::")


def test_calls_of_one_module_are_told_apart_and_not_counted():
    class Twice(Layers):
        def forward(self, x):
            return self.head(self.head(self.stem(x)))

    model, calls = Twice(), {}
    sites = [site for site in passing(model) if site.path == "head"]
    with Capture(model, sites, lambda site, _: calls.setdefault(site, []).append(capture.call)) as (
        capture
    ):
        loss(torch.compile(model, backend="aot_eager")(torch.randn(3, 4))).backward()
        assert capture.call == 0
    by_role = {site.role: found for site, found in calls.items()}
    first, second = by_role[Role.INPUT]
    assert 0 not in (first, second)
    assert first != second
    assert by_role[Role.OUTPUT] == [first, second]
    assert by_role[Role.GRAD_OUTPUT] == [second, first]
    assert {site.index for site in calls} == {0}


def test_a_tap_breaks_no_graph():
    explained = torch._dynamo.explain(Plain())(torch.randn(3, 4))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
