"""Sessions on compiled models: one graph, the same numbers, and never silently deaf."""

import pytest
import torch
from plain_probes import Alone, Together, Windowed
from sites.zoo import Checkpointed, PlainAttention, hooks_of
from torch import nn
from torch._dynamo.utils import counters

import qprobe
from qprobe.errors import InputError
from qprobe.models import build
from qprobe.probes.compiled import unwrapped
from qprobe.records.schema import Role

#: PyTorch's own, from inside its compiler.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.act = nn.Linear(4, 8), nn.ReLU(inplace=True)
        self.norm, self.twice = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.norm(self.act(self.stem(x)))
        return self.twice(self.twice(x).tanh())


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def train(model, run, x, steps=3, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    gradients = []
    with qprobe.attach(model, probes=[Windowed(), Alone(), Together()], **options) as session:
        for _ in range(steps):
            optimizer.zero_grad()
            run(x).pow(2).mean().backward()
            gradients += [p.grad.clone() for p in model.parameters()]
            optimizer.step()
            session.step()
    assert hooks_of(model) == 0
    found = {
        (r.step, *r.column): r.value
        for r in session.records()
        if r.probe not in ("session", "training")
    }
    return gradients, found


def whole(model, backend):
    return torch.compile(model, backend=backend, fullgraph=True)


def in_place(model, backend):
    model.compile(backend=backend, fullgraph=True)
    return model


@pytest.mark.parametrize("how", [whole, in_place])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_model_has_one_graph_and_the_same_numbers(how, backend):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    eager = Small()
    torch.manual_seed(0)
    model = Small()
    expected_gradients, expected = train(eager, eager, x, every=2)
    gradients, found = train(model, how(model, backend), x, every=2)
    assert counters["stats"]["unique_graphs"] == 1  # due and not due steps alike
    assert not counters["graph_break"]
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-6, atol=1e-7)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # A moment that is small beside the spread of its terms is as exact as these are: 1e-6.
        assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key


def test_blocks_compiled_one_by_one_and_recomputed_are_counted_once():
    model, x = Checkpointed(), torch.randn(6, 4)
    for block in model.blocks:
        block.compile(backend="aot_eager")
    _, found = train(model, model, x, steps=1)
    counts = {key: value for key, value in found.items() if key[3:] == ("alone", "looks")}
    assert set(counts.values()) == {1.0}
    inputs = [key for key in counts if key[2] == "input"]
    gradients = [key for key in counts if key[2] == "grad_output"]
    assert len(inputs) == len(gradients) == 7


class Siblings(nn.Module):
    """One layer called three times; of the last call nothing reaches the loss."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer = nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.stem(x)
        first, second, third = self.layer(x), self.layer(x.tanh()), self.layer(x * 100)
        return first.relu() + second.sin(), third.detach()


class KeywordAttention(nn.Module):
    """Called by keyword, as those of transformers are, for one of which it is taken."""

    __module__ = "transformers.of_a_test"

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, *, hidden_states):
        q, k, v = (layer(hidden_states) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return nn.functional.scaled_dot_product_attention(q, k, v), None


class AttendsTwice(nn.Module):
    def __init__(self, packed):
        super().__init__()
        self.stem, self.packed = nn.Linear(4, 8), packed
        self.attention = nn.MultiheadAttention(8, 2) if packed else KeywordAttention()

    def forward(self, x):
        x = self.stem(x)
        for _ in range(2):
            given = (x, x, x) if self.packed else ()
            x = self.attention(*given, **({} if self.packed else {"hidden_states": x}))[0]
        return x


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_inputs_of_every_call_of_an_attention_are_seen(packed, compiled):
    model, x = AttendsTwice(packed), torch.randn(3, 5, 4)
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    with qprobe.attach(model, probes=[Alone(), Together()], every=1) as session:
        run(x).sum().backward()
        session.step()
    assert session.missed == ()
    looks = {(r.site, r.role): r.value for r in session.records() if r.key == "looks"}
    taken, made = (".in_proj", ".out_proj") if packed else ("#0", "")
    assert looks[f"attention{taken}", "input"] == looks[f"attention{made}", "output"] == 2
    assert looks["stem", "input"] == 1


@pytest.mark.parametrize("accumulated", [1, 2])
def test_calls_of_one_layer_in_one_graph_are_told_apart(accumulated):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = Siblings()
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        with qprobe.attach(model, probes=[Together()], schedule={"together": 2}) as session:
            for _ in range(3):
                for part in x.chunk(accumulated):
                    run(part)[0].square().mean().backward()
                session.step()
        own = [r for r in session.records() if r.probe == "together"]
        found.append({(r.step, *r.column): r.value for r in own})
    assert counters["stats"]["unique_graphs"] <= accumulated  # of a shape each
    assert not counters["graph_break"]
    eager, seen = found
    assert seen[1, "layer", "grad_output", "together", "looks"] == 2 * accumulated
    assert seen == pytest.approx(eager, rel=1e-4, abs=1e-9)


def test_calls_that_cannot_be_told_apart_are_said():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(3, 4)
    run = torch.compile(model, backend="aot_eager", fullgraph=True)
    with qprobe.attach(model, probes=[Together()], schedule={"together": 1}, sites="0") as session:
        (run(x) + run(x)).sum().backward()  # in the order in which backward visits them
        session.step()
        run(x)
        run(x).sum().backward()  # which of both runs this is nobody knows
        with pytest.warns(UserWarning, match="several calls of '0' in compiled code"):
            session.step()


def test_attention_is_sampled_when_it_runs_not_when_it_is_traced():
    model, x = build("vit", "tiny", image=32), torch.randn(2, 3, 32, 32)
    model.eval()
    run = torch.compile(model, backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    class Heads:
        name = "heads"
        needs = frozenset()

        def __init__(self):
            self.turns = []

        def selects(self, site):
            return site.role is Role.ATTN_LOGITS

        def observe(self, view):
            assert view.attended is not None
            assert view.attended.q.shape[0] == 2  # the whole of it: a probe takes its own sample
            self.turns.append(float(view.tensor.sum()))

    probe = Heads()
    with qprobe.attach(model, probes=[probe], every=2, sites="blocks.0.*") as session:
        for _ in range(5):
            run(x).mean().backward()
            optimizer.step()
            session.step()
    assert len(probe.turns) == 3  # due steps
    assert len(set(probe.turns)) == 3  # each with another sample
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("how", [whole, in_place])
def test_a_model_that_ran_compiled_is_refused(how):
    model = Small()
    run = how(model, "eager")
    with qprobe.attach(model, probes=[Alone()]) as session:  # compiled, not yet run
        run(torch.randn(2, 4)).sum().backward()
        session.step()
        assert session.missed == ()
    torch._dynamo.reset()
    run(torch.randn(2, 4))
    with pytest.raises(InputError, match=r"was compiled by an earlier call.*_dynamo.reset"):
        qprobe.attach(model, probes=[Alone()])
    torch._dynamo.reset()
    with qprobe.attach(model, probes=[Alone()]) as session:
        run(torch.randn(2, 4)).sum().backward()
        session.step()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_compiled_block_that_ran_is_refused(wrapped):
    inner = nn.Linear(4, 4) if wrapped else Small()
    if wrapped:
        inner = torch.compile(inner, backend="eager")
    else:
        inner.compile(backend="eager")
    model = nn.Sequential(nn.Linear(4, 4), inner)
    model(torch.randn(2, 4))
    with pytest.raises(InputError, match="'1'"):
        qprobe.attach(model, probes=[Alone()])


def test_wrappers_are_looked_through():
    model = Small()
    assert unwrapped(torch.compile(model)) is model
    with pytest.raises(InputError, match="DataParallel"):
        unwrapped(nn.DataParallel(model))


def test_fusions_in_compiled_code_are_refused():
    model, x = PlainAttention(), torch.randn(2, 5, 6)
    model.compile(backend="eager")
    with pytest.raises(InputError, match="Tap"):
        qprobe.attach(model, probes=[Alone()], example=x)
    assert hooks_of(model) == 0
