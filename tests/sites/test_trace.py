import dataclasses
import warnings

import pytest
import torch
import torch.nn.functional as F
from sites.zoo import ZOO, Checkpointed, Residual, hooks_of
from torch import nn

from qprobe.errors import InputError
from qprobe.models import build
from qprobe.records.schema import Role
from qprobe.sites import discover, trace

ANIMALS = pytest.mark.parametrize("name", list(ZOO))
MODES = pytest.mark.parametrize("training", [True, False])


def run(name, *, training=True):
    model = ZOO[name].model().train(training)
    args, kwargs = ZOO[name].inputs()
    return model, trace(model, *args, **kwargs)


@MODES
@ANIMALS
def test_fusions_and_attentions_are_named_by_module_and_call(name, training):
    _, found = run(name, training=training)
    assert tuple(str(one) for one in found.fusions) == ZOO[name].fusions
    attentions = found.attentions
    assert len(attentions) == len(ZOO[name].attentions)
    if name != "converted":
        assert tuple(str(one.product) for one in attentions) == ZOO[name].attentions


def state_of(model):
    return {
        "hooks": hooks_of(model),
        "modes": [module.training for module in model.modules()],
        "tensors": {
            key: (id(t), t._version, t.detach().clone(), t.grad, t.requires_grad)
            for key, t in [*model.named_parameters(), *model.named_buffers()]
        },
        "rng": torch.random.get_rng_state(),
        "generators": [
            module.setup.generator.get_state()
            for module in model.modules()
            if getattr(getattr(module, "setup", None), "generator", None) is not None
        ],
    }


def assert_same(before, after):
    assert before["hooks"] == after["hooks"]
    assert before["modes"] == after["modes"]
    assert torch.equal(before["rng"], after["rng"])
    assert all(map(torch.equal, before["generators"], after["generators"]))
    assert before["tensors"].keys() == after["tensors"].keys()
    for key, (identity, version, value, grad, needs) in before["tensors"].items():
        now = after["tensors"][key]
        assert now[0] == identity, key
        assert now[1] == version, key
        assert torch.equal(now[2], value), key
        assert now[3] is grad, key
        assert now[4] == needs, key


@MODES
@ANIMALS
def test_the_model_is_left_as_it_was_found(name, training):
    model = ZOO[name].model().train(training)
    args, kwargs = ZOO[name].inputs()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = state_of(model)
    with torch.no_grad():
        trace(model, *args, **kwargs)
        assert not torch.is_grad_enabled()
    assert_same(before, state_of(model))


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x):
        self.drop(self.norm(x))
        raise RuntimeError("half way")


def test_the_model_is_left_as_it_was_found_after_an_exception():
    model, x = Failing(), torch.randn(3, 4)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="half way"):
        trace(model, x)
    assert_same(before, state_of(model))
    assert not torch.overrides._is_torch_function_mode_enabled()


def test_the_caller_in_inference_mode():
    model = Residual()
    with torch.inference_mode():
        assert len(trace(model, torch.randn(1, 3, 6, 6)).fusions) == 2


def test_tracing_twice_finds_the_same():
    model = ZOO["vit"].model()
    args, _ = ZOO["vit"].inputs()
    assert trace(model, *args) == trace(model, *args)


def test_calls_of_modules_are_counted():
    _, found = run("twice")
    assert found.calls == {"": 1, "layer": 2, "head": 2}


def fusions_of(forward, **modules):
    """The fusions of a model that is one function of its modules."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            for name, module in modules.items():
                setattr(self, name, module)

        def forward(self, x):
            return forward(self, x)

    return [str(one) for one in trace(Model(), torch.randn(2, 3, 4)).fusions]


def two(forward):
    return fusions_of(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4))


POSITION = nn.Parameter(torch.zeros(3, 4))


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.a(x) + 1.0,
        lambda m, x: m.a(x) + m.a.bias,
        lambda m, x: m.a(x) * m.b.bias.sigmoid(),
        lambda m, x: m.a(x) + F.linear(torch.ones(3, 4), m.b.weight),
        lambda m, x: m.a(x) + torch.zeros_like(x),
        lambda m, x: x + m.a(x),  # the batch itself carries no gradient
        lambda m, x: m.a(x) + m.b(x).detach(),
        lambda m, x: m.a(x) + (m.b(x) > 0),
        lambda m, x: m.a(x).sum() + m.b(x).sum(),  # a loss
        lambda m, x: torch.cat((m.a(x)[:1].chunk(2, -1)), 0),
        lambda m, x: torch.cat((m.a.bias.expand(2, 1, 4), m.b(x)), 1),  # a class token
        lambda m, x: (lambda y: y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True)))(m.a(x)),
        lambda m, x: (lambda y: 0.5 * y * (1 + torch.tanh(y + 0.04 * y**3)))(m.a(x)),
        lambda m, x: (lambda y: y.cos() * y + torch.cat((-y[..., 2:], y[..., :2]), -1))(m.a(x)),
        lambda m, x: F.dropout(m.a(x), 0.5) * torch.bernoulli(torch.full((2, 1, 1), 0.5)),
    ],
)
def test_what_is_no_fusion(forward):
    assert two(forward) == []


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda m, x: m.a(x) + m.b(x), "add ./add.0: a | b"),
        (lambda m, x: torch.add(m.a(x), m.b(x), alpha=2), "add ./add.0: a | b"),
        (lambda m, x: m.a(x).add_(m.b(x)), "add ./add.0: a | b"),
        (lambda m, x: sum([m.a(x), m.b(x)]), "add ./add.1: a | b"),
        (lambda m, x: torch.stack([m.a(x), m.b(x)]).mean(0), "cat ./cat.0: a | b"),
        (lambda m, x: torch.hstack([m.a(x), m.b(x)]), "cat ./cat.0: a | b"),
        (lambda m, x: m.a(x) * m.b(x).sigmoid(), "gate ./mul.0: a | b"),
        (lambda m, x: m.a(x).mul_(m.b(m.a(x)).mean(1, keepdim=True)), "gate ./mul.0: a | b"),
        (lambda m, x: m.a(x)[..., :2] * m.a(x)[..., 2:], "gate ./mul.0: a | a"),
        (lambda m, x: (lambda y: y[..., :2] * y[..., 2:])(m.a(x)), "gate ./mul.0: a | a"),
    ],
)
def test_what_is_a_fusion(forward, expected):
    assert two(forward) == [expected]


def test_a_slice_that_is_written_belongs_to_what_was_written():
    def forward(m, x):
        target = torch.zeros(2, 3, 4)
        target[..., :2] = m.a(x)[..., :2]
        return target + m.b(x)

    assert two(forward) == ["add ./add.0: a | b"]


def test_custom_autograd_functions_are_ascribed_to_their_module():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            return x * w.sum()

        @staticmethod
        def backward(ctx, grad):
            return grad, None

    class Hidden(nn.Linear):
        def forward(self, x):
            return Double.apply(x, self.weight)

    found = fusions_of(
        lambda m, x: (lambda y: y + m.hidden(y))(m.a(x)), a=nn.Linear(4, 4), hidden=Hidden(4, 4)
    )
    assert found == ["add ./add.0: a | hidden"]


def test_branches_of_an_addition_leave_the_latest_shared_activation():
    _, found = run("residual")
    first, second = found.fusions
    assert first.shared == ("stem",)
    assert [[(str(c), at) for c, at in b.exits] for b in first.branches] == [
        [("conv1/conv2d.0", 0)],
        [("down/conv2d.0", 0)],
    ]
    assert second.shared == ("./add.0",)
    assert [[(str(c), at) for c, at in b.exits] for b in second.branches] == [
        [("last/conv2d.0", 0)],
        [("./add.1", 1)],
    ]


def test_an_addition_that_shares_nothing_has_no_sites():
    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, y):
            return self.a(x) + self.b(y)

    found = trace(Apart(), torch.randn(2, 4), torch.randn(2, 4))
    assert len(found.fusions) == 1
    assert found.sites == ()


@dataclasses.dataclass
class Batch:
    image: torch.Tensor


def test_dataclass_inputs_are_part_of_the_batch():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, batch):
            return Batch(self.a(batch.image) + self.b(batch.image))

    assert len(trace(Model(), Batch(torch.randn(2, 4))).fusions) == 1


def test_attention_layers_are_not_listed_twice():
    model, found = run("vit")
    assert {site.kind for site in found.sites} == {"add"}
    assert len([s for s in discover(model) if s.role is Role.ATTN_LOGITS]) == 4
    _, found = run("plain attention")
    sites = [str(site) for site in found.sites if site.kind == "attention"]
    assert sites == [
        "attention ./matmul.0 input",
        "attention ./matmul.0 input[1]",
        "attention ./matmul.0 input[2]",
        "attention ./matmul.0 attn_logits",
        "attention ./matmul.0 attn_probs",
    ]


def test_reentrant_checkpointing_hides_branches_and_nothing_else():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = trace(Checkpointed(reentrant=True), torch.randn(2, 4))
    assert found.fusions == ()
    assert found.calls["blocks.1.fc2"] == 1


def test_a_model_without_shapes_is_refused():
    with pytest.raises(InputError, match="has no shape yet"):
        trace(nn.LazyLinear(3), torch.randn(2, 4))


def test_buffers_that_a_model_replaces_come_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count = self.count + 1
            return x

    model = Counting()
    before = model.count
    trace(model, torch.ones(1))
    assert model.count is before
    assert model.count == 0


def test_sites_of_our_networks_at_a_glance():
    found = trace(build("cnn", "tiny"), torch.randn(1, 3, 32, 32).repeat(2, 1, 1, 1))
    assert [str(site) for site in found.sites][:2] == [
        "cat decoder.0/cat.0 branch[0]",
        "cat decoder.0/cat.0 branch[1]",
    ]
