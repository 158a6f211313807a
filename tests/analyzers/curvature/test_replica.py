import pytest
import torch
from subjects import awkward, linear, squares, subject
from torch import nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.curvature.hessian import hessian
from qprobe.analyzers.curvature.replica import Replica
from qprobe.errors import InputError
from qprobe.quant import override, recipe


def data(dtype=torch.float32, samples=4):
    return [(torch.randn(samples, 8, dtype=dtype), torch.randn(samples, 8, dtype=dtype))]


def test_the_copy_computes_in_high_precision():
    made, _ = linear()
    x, t = made.batches()[0]
    plain = nn.functional.linear(x, made.model[0].weight)
    assert torch.equal(Replica(made, 1).losses(0), squares(plain, (x, t)))
    assert not torch.equal(made.model(x), plain)


def test_the_copy_is_in_evaluation_mode():
    made = awkward()
    found = Replica(made, 1).losses(0)
    override(made.model.eval(), {"*": "bf16"})
    batch = made.batches()[0]
    assert torch.equal(found, squares(made.model(batch[0]), batch))


def test_attention_has_a_second_derivative():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x):
            q, k, v = self.qkv(x)[:, None].chunk(3, -1)
            return nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]

    replica = Replica(subject(Attends(), [(torch.randn(3, 4, 8), torch.randn(3, 4, 8))]), 1)
    operator = hessian(replica)
    with replica.undisturbed():
        assert operator(torch.ones(operator.size)).any()


def test_a_loss_without_second_derivative_is_named():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x):
            q, k, v = self.qkv(x)[:, None].chunk(3, -1)
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0][:, 0]

    replica = Replica(subject(Fused(), [(torch.randn(3, 4, 8), torch.randn(3, 4, 8))]), 1)
    operator = hessian(replica)
    with pytest.raises(InputError, match="no second derivative"), replica.undisturbed():
        operator(torch.ones(operator.size))


class Halved(nn.Sequential):
    """Insists on its own dtype."""

    def __init__(self, *sizes):
        super().__init__(nn.Linear(*sizes))

    def forward(self, x):
        return super().forward(x.bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_stays_as_it_is(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).to(dtype).eval()
    half = subject(model, data(dtype))
    replica = Replica(half, 2)
    assert replica.widened
    assert {one.dtype for one in replica.values} == {torch.float32}
    assert replica.model[1].running_var.dtype == torch.float32
    assert {one.dtype for one in model.parameters()} == {dtype}
    assert torch.equal(replica.model[0].weight, model[0].weight.float())
    assert replica.losses(0).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: subject(nn.Sequential(nn.Linear(8, 8)), []), "has no batch"),
        (lambda: subject(nn.Sequential(nn.Linear(8, 8)), data(samples=1)), "needs at least 2"),
        (
            lambda: subject(nn.Sequential(Halved(8, 8).bfloat16()), data(torch.bfloat16)),
            "in half precision and cannot be computed in float32",
        ),
        (
            lambda: subject(nn.Sequential(nn.Linear(8, 8)), data(), lambda y, b: y.sum()),
            "give finite losses of shape",
        ),
        (
            lambda: subject(nn.Sequential(nn.Linear(8, 8)), data(), lambda y, b: y.sum(1) / 0),
            "give finite losses of shape",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_copied_is_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        Replica(make(), 2)


def test_a_model_in_high_precision_is_refused():
    plain = Subject(
        model=nn.Linear(8, 8), recipe=recipe("bf16"), batches=list, loss=squares, score=None
    )
    with pytest.raises(InputError, match="no layer of the model is quantized"):
        Replica(plain, 1)


def test_a_model_that_keeps_a_graph_is_refused():
    made = subject(nn.Sequential(nn.Linear(8, 8)), data())
    made.model.kept = made.model(made.batches()[0][0])
    with pytest.raises(InputError, match=r"cannot be copied .* detach tensors"):
        Replica(made, 1)


def test_random_states_are_given_back_after_an_error():
    replica = Replica(awkward(), 1)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shape"), replica.undisturbed():
        torch.rand(3).view(2)
    assert torch.equal(torch.get_rng_state(), before)
