"""Gradients beside what functions do, in modules whose gradients are wrong by a known factor."""

import math

import pytest
import torch
from analyzers.patients import NegativeLoss
from torch import nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.derivatives import NAME, Derivatives
from qprobe.errors import InputError
from qprobe.faults import candidates, plant
from qprobe.models import build
from qprobe.quant import convert, recipe
from qprobe.records.schema import Cause, Record, Role, Severity


class Scaled(nn.Module):
    """Computes tanh; its gradient is multiplied by a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        y = x.tanh()
        return y * self.factor + (y * (1.0 - self.factor)).detach()


def subject(model, x, *, forward=None):
    y = torch.zeros(len(x))
    more = {} if forward is None else {"forward": forward}
    return Subject(
        model=model,
        recipe=recipe("nvfp4"),
        batches=lambda: [(x, y)],
        loss=lambda output, batch: output.flatten(1).square().mean(1),
        score=NegativeLoss(),
        **more,
    )


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def chain(middle):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), middle, nn.Linear(16, 4)).eval()


def found(model, x=None, **options):
    one = subject(model, numbers(6, 8) if x is None else x, **options)
    return Derivatives().analyze(list(Derivatives().measure(one)))


@pytest.mark.parametrize("factor", [1e-3, 0.1, 0.4])
def test_a_gradient_that_is_too_small_is_told_with_its_factor(factor):
    (one,) = found(chain(Scaled(factor)))
    assert (one.sites, one.cause, one.severity) == (("1",), Cause.BRANCH_DEAD, Severity.WARN)
    assert one.effect == pytest.approx(1 / factor, rel=1e-3)
    assert one.n == 6
    assert "times too small" in one.claim


def test_a_gradient_that_is_too_large_is_not_explained():
    (one,) = found(chain(Scaled(5.0)))
    assert (one.cause, one.effect) == (Cause.NOT_EXPLAINED, pytest.approx(5.0, rel=1e-3))
    assert "times too large" in one.claim


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.5])
def test_a_gradient_within_the_limit_is_not_told(factor):
    assert found(chain(Scaled(factor))) == []


def test_only_the_innermost_module_is_named():
    (one,) = found(chain(nn.Sequential(nn.Identity(), nn.Sequential(Scaled(0.01)))))
    assert one.sites == ("1.1.0",)


def test_a_defect_of_the_module_s_own_code_is_named_at_the_module():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(16, 16)

        def forward(self, x):
            return self.inner(x.detach() * 0.9 + x * 0.1)

    (one,) = found(chain(Residual()))
    assert one.sites == ("1",)
    assert one.effect == pytest.approx(10.0, rel=1e-3)


def test_what_hooks_of_others_take_from_a_module_is_part_of_it():
    """A later module reads an output that a hook has kept, as models of transformers do."""
    kept = []

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(16, 4)

        def forward(self, x):
            return self.last(x.detach() * 0.0 + kept[-1])

    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), Head()).eval()
    model[1].register_forward_hook(lambda _, __, y: kept.append(y))
    assert found(model) == []


def test_quantizers_are_lifted_since_their_gradients_are_straight_through():
    model = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 8)).eval()
    convert(model, "nvfp4")
    before = model[1].recipe.name
    assert found(model, numbers(6, 16)) == []
    assert model[1].recipe.name == before


@pytest.mark.parametrize("architecture", ["cnn", "vit", "swin"])
def test_models_agree_and_a_starved_branch_does_not(architecture):
    model = build(architecture, "tiny", image=32).eval()
    convert(model, "nvfp4-sr")
    x = numbers(2, 3, 32, 32)
    measured = list(Derivatives().measure(subject(model, x)))
    assert len([one for one in measured if one.key.endswith("derivative")]) > 30
    assert {one.value for one in measured if one.key == "tried"} == {1.0}
    assert Derivatives().analyze(measured) == []
    site = candidates(model, "dead-branch", (x,))[0]
    with plant(model, "dead-branch", site, strength=20.0, seed=1, example=(x,)) as planted:
        (one,) = found(model, x)
    assert set(one.sites) <= set(planted.sites)
    assert one.effect == pytest.approx(20.0, rel=0.05)


def test_what_does_not_repeat_is_recorded_as_not_tried():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    measured = list(Derivatives().measure(subject(chain(Counting()), numbers(6, 8))))
    tried = {one.site: one.value for one in measured if one.key == "tried"}
    assert tried == {"0": 1.0, "1": 0.0, "2": 1.0}


def test_arguments_that_keep_state_are_not_used_twice():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x, source):
            return self.layer(x) * next(source)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader = Reader()

        def forward(self, x):
            return self.reader(x, iter([2.0]))

    measured = list(Derivatives().measure(subject(Outer().eval(), numbers(6, 8))))
    tried = {one.site: one.value for one in measured if one.key == "tried"}
    assert tried == {"reader": 0.0, "reader.layer": 1.0}


def test_what_is_masked_stays_masked_while_the_rest_of_an_argument_is_moved():
    class Masked(nn.Module):
        def forward(self, x):
            return x.softmax(-1)

    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.scores, self.masked = nn.Linear(8, 8), Masked()

        def forward(self, x):
            hidden = self.scores(x)
            return self.masked(hidden.masked_fill(torch.eye(8, dtype=torch.bool)[:6], -math.inf))

    measured = list(Derivatives().measure(subject(Windows().eval(), numbers(6, 8))))
    values = {one.key: one.value for one in measured if one.site == "masked"}
    assert values["argument0.derivative"] == pytest.approx(values["argument0.gradient"], rel=0.02)


def test_the_model_is_left_as_it_was():
    model = chain(Scaled(0.1))
    model.train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    found(model)
    assert model.training
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_no_batch_and_compiled_models_are_refused():
    with pytest.raises(InputError, match="no batch"):
        list(Derivatives().measure(subject_without_batches()))
    model = chain(Scaled(0.1))
    model[1]._orig_mod = nn.Identity()  # what torch.compile leaves behind
    with pytest.raises(InputError, match="compiled"):
        found(model)


def subject_without_batches():
    one = subject(chain(Scaled(1.0)), numbers(2, 8))
    return Subject(model=one.model, recipe=one.recipe, batches=list, loss=one.loss, score=one.score)


def test_findings_are_made_of_records_alone():
    def of(site, gradient, derivative, argument=0):
        values = {"gradient": gradient, "derivative": derivative}
        return [
            Record("", 0, site, Role.INPUT, NAME, f"argument{argument}.{key}", value)
            for key, value in values.items()
        ]

    records = [*of("a", 1.0, 3.0), *of("a.b", 1.0, 3.0), *of("c", 1.0, 1.9), *of("d", 1.0, -1.0)]
    records += [*of("e", 1.0, 1.0), *of("e", 1.0, 4.0, argument=1)]
    judged = {one.sites[0]: one.effect for one in Derivatives().analyze(records)}
    assert judged == {"a.b": 3.0, "d": math.inf, "e": 4.0}
