"""What a session promises, for every probe on every model.

Every probe that is registered is here by itself, and so is every one that comes; beside them
three that are written for tests. By default a model meets the probes in turn, so that each pair of
neighbours is seen; the slow set has them all, and models of other libraries.
"""

import gc
import itertools
import weakref

import pytest
import torch
from plain_probes import PROBES as PLAIN
from plain_probes import under_a_recipe
from sites.zoo import ZOO, Checkpointed, hooks_of, loss_of
from torch import nn
from torch.optim import optimizer as optimizers
from torch.utils._pytree import tree_leaves

import qprobe
from qprobe.errors import InputError
from qprobe.probes.base import PROBES
from qprobe.sites import discover, trace

BY_NAME = {probe.name: under_a_recipe(probe) for probe in (*PLAIN, *PROBES)}
#: What says something from the second look on only.
REMEMBERING = {"update_health"}
MODELS = [*ZOO, "reentrant"]
CASES = list(itertools.product(MODELS, BY_NAME))
NEAR = {
    (model, name)
    for i, model in enumerate(MODELS)
    for j, name in enumerate(BY_NAME)
    if (i - j) % len(BY_NAME) < 2
}
PAIRS = [
    pytest.param(model, name, marks=() if (model, name) in NEAR else pytest.mark.slow)
    for model, name in CASES
]


def made(name):
    if name == "reentrant":
        torch.manual_seed(0)
        return Checkpointed(reentrant=True), (torch.randn(3, 4),), {}
    args, kwargs = ZOO[name].inputs()
    return ZOO[name].model(), args, kwargs


def train(model, args, kwargs, session=None, steps=3):
    """All bits that a few steps of training produce."""
    torch.manual_seed(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    kept = []
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(*args, **kwargs)
        loss_of(output).backward()
        kept += [t.detach().clone() for t in tree_leaves(output) if torch.is_tensor(t)]
        kept += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        if session is not None:
            session.step(loss=1.0)
    state = [t.detach().clone() for t in (*model.parameters(), *model.buffers())]
    modes = [module.training for module in model.modules()]
    return [*kept, *state, torch.random.get_rng_state()], modes


def watched(model, args, kwargs, name, **options):
    return qprobe.attach(model, probes=[BY_NAME[name]], example=args or kwargs, **options)


def selects_something(name, model, args, kwargs):
    sites = [*discover(model), *trace(model, *args, **kwargs).sites]
    return any(BY_NAME[name].selects(site) for site in sites)


@pytest.mark.parametrize(("animal", "name"), PAIRS)
def test_training_keeps_its_bits_and_everything_is_as_before(animal, name):
    model, args, kwargs = made(animal)
    if not selects_something(name, model, args, kwargs):
        with pytest.raises(InputError, match="selects none of the sites"):
            watched(model, args, kwargs, name)
        assert hooks_of(model) == 0
        return
    plain, modes = train(model, args, kwargs)
    model, args, kwargs = made(animal)
    before = len(optimizers._global_optimizer_pre_hooks)
    with watched(model, args, kwargs, name, schedule={name: 2}) as session:
        assert hooks_of(model) > 0
        seen, seen_modes = train(model, args, kwargs, session)
    assert all(map(torch.equal, plain, seen))
    assert len(plain) == len(seen)
    assert modes == seen_modes
    assert hooks_of(model) == 0
    assert len(optimizers._global_optimizer_pre_hooks) == before
    assert not torch.overrides._is_torch_function_mode_enabled()
    missed = {str(site) for _, site in session.missed}
    found = [record for record in session.records() if record.probe == name]
    assert not missed or animal == "reentrant", missed
    assert {record.step for record in found} == ({3} if name in REMEMBERING else {1, 3})


@pytest.mark.parametrize("name", BY_NAME)
def test_nothing_is_left_after_an_exception(name):
    model, args, kwargs = made("plain attention")
    if not selects_something(name, model, args, kwargs):
        pytest.skip("selects nothing here")

    def boom(*_):
        raise RuntimeError("no more")

    handle = model.proj.register_forward_hook(boom)
    with pytest.raises(RuntimeError, match="no more"), watched(model, args, kwargs, name):
        model(*args, **kwargs)
    handle.remove()
    assert hooks_of(model) == 0
    assert not torch.overrides._is_torch_function_mode_enabled()
    loss_of(model(*args, **kwargs)).backward()


@pytest.mark.parametrize("name", BY_NAME)
def test_no_graph_is_kept_alive(name):
    model, args, kwargs = made("plain attention")
    if not selects_something(name, model, args, kwargs):
        pytest.skip("selects nothing here")
    with watched(model, args, kwargs, name, every=1) as session:
        output = model(*args, **kwargs)
        loss_of(output).backward()
        alive = weakref.ref(output)
        del output
        gc.collect()
        assert alive() is None
        session.step()


def test_evaluation_keeps_its_bits_and_is_seen_when_asked_for():
    model, args, kwargs = made("vit")
    model.eval()
    with torch.no_grad():
        plain = model(*args, **kwargs)
    for evaluation in (False, True):
        probe = BY_NAME["windowed"]
        with qprobe.attach(
            model, probes=[probe], sites="blocks.*", evaluation=evaluation, every=1
        ) as session:
            with torch.no_grad():
                assert torch.equal(model(*args, **kwargs), plain)
            session._warned = True  # gradients never come here
            session.step()
        inputs = [r for r in session.records() if (r.role, r.probe) == ("input", "windowed")]
        assert bool(inputs) is evaluation


def test_a_registered_probe_is_here_without_being_named():
    assert set(PROBES.names()) <= set(BY_NAME)
    assert isinstance(model := made("cnn")[0], nn.Module)
    assert hooks_of(model) == 0
