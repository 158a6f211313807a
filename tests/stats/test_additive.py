"""What every state promises, whatever it measures."""

import math
from dataclasses import dataclass, fields
from functools import reduce

import pytest
import torch

from qprobe.errors import InputError
from qprobe.stats import (
    Additive,
    CodeLook,
    batch_noise,
    block_scales,
    branch_energy,
    code_occupancy,
    gradient_error,
    logit_error,
    look_again,
    operand_error,
    prediction_levels,
    rounding_error,
    softmax_error,
    softmax_levels,
    update_size,
)
from qprobe.stats.additive import add, narrow
from qprobe.stats.heads import PerHead

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def noisy(x, generator):
    return (x + 0.1 * torch.randn(x.shape, generator=generator).to(x.dtype)).to(x.dtype)


def looked(x, y):
    look = CodeLook.first(x.round())
    return look_again(look, y.round())[1]


def codes_of(x):
    return (x.float() * 4).round().long() % 16


def same(x):
    return x


def rows(x):
    return x.double().softmax(-1)


def likely(x):
    return x.double().sigmoid()


#: Where the arguments come from, and a function of two tensors ``[batch, heads, rows, columns]``.
STATISTICS = {
    "logit_error": (same, logit_error),
    "softmax_error": (rows, softmax_error),
    "softmax_levels": (rows, softmax_levels),
    "prediction_levels": (likely, prediction_levels),
    "operand_error": (same, lambda x, y: operand_error(x, y, limit=2.0)),
    "code_occupancy": (same, lambda x, y: code_occupancy(codes_of(x))),
    "block_scales": (same, lambda x, y: block_scales(y.abs().amax(-1), codes_of(x))),
    "gradient_error": (same, gradient_error),
    "rounding_error": (same, lambda x, y: rounding_error(x, [x, y])),
    "batch_noise": (same, lambda x, y: batch_noise(x, y, -y)),
    "branch_energy": (same, lambda x, y: branch_energy([x, y], 8.0)),
    "update_size": (same, update_size),
    "code_changes": (same, looked),
}


class Statistic:
    """One of the above on any numbers, in the dtype of the numbers."""

    def __init__(self, name):
        self.domain, self.measure = STATISTICS[name]

    def arguments(self, x, y):
        return self.domain(x).to(x.dtype), self.domain(y).to(y.dtype)

    def __call__(self, x, y):
        return self.measure(*self.arguments(x, y))


@pytest.fixture(params=STATISTICS)
def statistic(request):
    return Statistic(request.param)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_parts_merged_in_any_order_are_the_whole(statistic, dtype, offset, generator):
    x = (torch.randn(12, 2, 4, 16, generator=generator) + offset).to(dtype)
    y = noisy(x, generator)
    whole = statistic(x, y).scalars()
    parts = [statistic(x[at : at + 3], y[at : at + 3]) for at in range(0, 12, 3)]
    forward = reduce(lambda a, b: a.merge(b), parts).scalars()
    shuffled = parts[2].merge(parts[0]).merge(parts[3].merge(parts[1])).scalars()
    assert forward.keys() == whole.keys() == shuffled.keys()
    for key, value in whole.items():
        assert shuffled[key].item() == forward[key].item(), key
        close = pytest.approx(value.item(), rel=1e-9, abs=1e-12, nan_ok=True)
        assert forward[key].item() == close, key


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_dtype_is_only_a_container(statistic, dtype, generator):
    """The same numbers in float64 give the same state, so nothing was computed in ``dtype``."""
    x = torch.randn(3, 2, 4, 8, generator=generator).to(dtype)
    one, two = statistic.arguments(x, noisy(x, generator))
    found, exact = statistic.measure(one, two), statistic.measure(one.double(), two.double())
    for name, value in found.tensors().items():
        assert torch.equal(value, exact.tensors()[name]), name


def test_an_empty_tensor_is_missing_and_merges_as_nothing(statistic, generator):
    x = torch.randn(2, 2, 4, 8, generator=generator)
    y = noisy(x, generator)
    nothing = statistic(x[:0], y[:0])
    scalars = nothing.scalars()
    assert scalars["n"].item() == 0
    assert not any(math.isnan(value) for value in scalars.values())
    found, whole = statistic(x, y).merge(nothing).scalars(), statistic(x, y).scalars()
    assert {k: v.item() for k, v in found.items()} == {k: v.item() for k, v in whole.items()}


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_a_constant_tensor_that_nothing_changed_makes_no_nan(statistic, value):
    x = torch.full((2, 2, 4, 7), value, dtype=torch.float64)
    assert not any(math.isnan(v) for v in statistic(x, x).scalars().values())


def test_scalars_have_no_axes_and_fields_are_tensors(statistic, generator):
    x = torch.randn(2, 2, 4, 8, generator=generator)
    state = statistic(x, noisy(x, generator))
    others = {f.name for f in fields(state)} - set(state.tensors())
    assert others <= {"heads"}
    assert all(value.ndim == 0 for value in state.scalars().values())
    assert "n" in state.scalars()


def test_tensors_that_require_gradients_leave_no_graph(statistic, generator):
    x = torch.randn(2, 2, 4, 8, generator=generator, requires_grad=True)
    with torch.no_grad():
        y = noisy(x, generator)
    state = statistic(x.detach(), y)
    assert not any(value.requires_grad for value in state.tensors().values())


def test_nothing_is_read_on_the_host(statistic):
    """On the meta device there are no values: whatever reads one fails."""
    x = torch.empty(2, 2, 4, 8, device="meta")
    state = statistic(x, x)
    state.merge(state)


def test_a_state_moves_as_a_whole(statistic):
    x = torch.ones(1, 2, 3, 4)
    moved = statistic(x, x).to("meta")
    assert all(value.device.type == "meta" for value in moved.tensors().values())


@pytest.mark.gpu
def test_a_gpu_gives_the_same_without_being_waited_for(statistic, generator):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = torch.randn(12, 2, 4, 16, generator=generator)
    arguments = statistic.arguments(x, noisy(x, generator))
    expected = statistic.measure(*arguments).scalars()
    there = [argument.cuda() for argument in arguments]
    torch.cuda.set_sync_debug_mode("error")
    try:
        state = statistic.measure(*there)
        state.merge(state)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = state.to("cpu").scalars()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].item() == pytest.approx(value.item(), rel=1e-12), key


def test_states_of_different_sites_do_not_merge():
    one, two = torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3)
    with pytest.raises(InputError, match=r"LogitError differ in entries: \(2,\) and \(4,\)"):
        logit_error(one, one).merge(logit_error(two, two))


@pytest.mark.parametrize(
    ("one", "two", "dtype"),
    [
        (32_000, 767, torch.int16),
        (32_000, 768, torch.int32),
        (2**31 - 2, 1, torch.int32),
        (2**31 - 1, 2**31 - 1, torch.int64),
    ],
)
def test_counts_grow_before_they_overflow(one, two, dtype):
    parts = [narrow(torch.tensor([value, 0]), 0) for value in (one, two)]
    total = add(*parts)
    assert total.tolist() == [one + two, 0]
    assert total.dtype == dtype


def test_on_a_device_narrow_counts_are_not_looked_at():
    counts = narrow(torch.ones(3, dtype=torch.int64, device="meta"), 1000)
    assert counts.dtype == torch.int16
    assert add(counts, counts).dtype == torch.int32


def test_a_state_without_scalars_cannot_be_made():
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Bare(Additive):
        n: torch.Tensor

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Headed(PerHead):
        n: torch.Tensor

    with pytest.raises(TypeError, match="abstract method"):
        Bare(n=torch.tensor(1))
    with pytest.raises(TypeError, match="abstract methods"):
        Headed(n=torch.ones(2))
