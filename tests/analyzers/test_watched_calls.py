"""Calls that are watched within a budget: all of them, in pieces, and the bytes that live."""

import weakref

import pytest
import torch
from analyzers.patients import NegativeLoss
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qprobe.analyzers.base import Subject
from qprobe.analyzers.derivatives import Derivatives
from qprobe.analyzers.watched_calls import watched_calls
from qprobe.errors import InputError
from qprobe.models import build
from qprobe.quant import recipe

WIDTH, DEPTH, BATCH = 64, 24, 512
ONE = WIDTH * BATCH * 4  # bytes of an activation
UNBOUNDED = 1 << 40


class Living(TorchDispatchMode):
    """Counts the bytes of the storages that operators made and somebody still holds."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage())
        return made

    def _count(self, storage):
        at, size = storage._cdata, storage.nbytes()
        if at in self._known:
            return
        self._known.add(at)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, at, size)

    def _freed(self, at, size):
        self._known.discard(at)
        self.now -= size


def subject(model, x):
    return Subject(
        model=model,
        recipe=recipe("nvfp4"),
        batches=lambda: [(x, torch.zeros(len(x)))],
        loss=lambda output, batch: output.flatten(1).square().mean(1),
        score=NegativeLoss(),
    )


def tower():
    """Layers of one width, four to a block: each tensor has as many bytes as any other."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)]
    blocks = [nn.Sequential(*layers[k : k + 4]) for k in range(0, DEPTH, 4)]
    return subject(nn.Sequential(*blocks).eval(), torch.randn(BATCH, WIDTH))


@pytest.mark.parametrize("budget", [1, 5 * ONE, 20 * ONE, UNBOUNDED])
def test_every_module_is_watched_once_whatever_the_budget(budget):
    one = tower()
    paths = [call.path for call in watched_calls(one, budget)]
    assert sorted(paths) == sorted(name for name, _ in one.model.named_modules() if name)


def test_a_model_that_fits_takes_one_pass_and_others_as_many_as_they_fill():
    one, passes = tower(), []
    one.model.register_forward_pre_hook(lambda *_: passes.append(1))
    # Of 30 modules the two first get an input without a gradient: 4 tensors each but those.
    whole = 4 * 30 * ONE - 2 * ONE
    for budget, least, most in [(whole, 1, 1), (whole - 1, 2, 2), (whole // 6, 6, 9), (1, 30, 30)]:
        passes.clear()
        list(watched_calls(one, budget))
        assert least <= len(passes) <= most, budget


def test_copies_in_memory_stay_within_the_budget():
    """Against a pass of the model itself, measured by what operators make and nobody lets go."""

    def peak(budget):
        one = tower()
        with Living() as living:
            for call in watched_calls(one, budget):
                call.again()
        return living.peak

    one = tower()
    with Living() as plain:
        one.model(one.batches()[0][0]).square().mean(1).sum().backward()
    # Beside the copies: what the called module makes, and a gradient on its way.
    slack = 10 * ONE
    for budget in (8 * ONE, 24 * ONE):
        assert peak(budget) <= plain.peak + budget + slack
    assert peak(UNBOUNDED) > plain.peak + 100 * ONE


def test_findings_do_not_depend_on_the_budget():
    model = build("swin", "tiny", image=32).eval()
    one = subject(model, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    whole, pieces = (
        {(r.site, r.key): r.value for r in Derivatives(budget).measure(one)}
        for budget in (UNBOUNDED, 100_000)
    )
    assert pieces == whole
    assert len(whole) > 100


def test_gradients_are_those_of_an_unwatched_pass():
    one = tower()
    hidden = one.model[:2](one.batches()[0][0]).detach().requires_grad_()
    one.model[2:](hidden).square().mean(1).sum().backward()
    kept = {c.path: c.into[0].clone() for c in watched_calls(one, 9 * ONE) if c.path == "2"}
    torch.testing.assert_close(kept["2"], hidden.grad)


def test_what_keeps_state_is_named_and_nothing_of_it_is_kept():
    class Reader(nn.Module):
        def forward(self, x, source):
            return x * next(source)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.reader = nn.Linear(8, 8), Reader()

        def forward(self, x):
            return self.reader(self.first(x), iter([2.0]))

    for call in watched_calls(subject(Outer().eval(), torch.ones(4, 8)), UNBOUNDED):
        if call.path == "reader":
            assert (call.plain, call.leaves, call.outputs, call.held_bytes) == (False, [], [], 0)
            break
    else:
        pytest.fail("the module that keeps state was not named")


def test_a_budget_below_a_byte_is_refused():
    with pytest.raises(InputError, match="at least 1, got 0"):
        Derivatives(0)
