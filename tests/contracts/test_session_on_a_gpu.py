"""What a session promises on a CUDA device; skipped where there is none.

PyTorch says itself when the host waits for the device, so the debug mode is on while models run and
probes look. What of it can be shown without a device is in ``test_session_without_waiting``.
"""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from sites.zoo import ZOO, hooks_of, several
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves, tree_map_only

import qprobe
from qprobe.probes.base import PROBES, ComparingProbe
from qprobe.quant import convert
from qprobe.sites import discover, trace

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
RECIPE = "nvfp4-2d-rht-sr"
PROBED = [type(p)(recipe=RECIPE) if isinstance(p, ComparingProbe) else p for p in PROBES]
#: Its layers draw from a generator of the device that they were converted on.
MODELS = [name for name in ZOO if name != "converted"]


@contextmanager
def not_waiting():
    """Whatever makes the host wait for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def there(values):
    return tree_map_only(Tensor, lambda t: t.cuda(), values)


def loss_of(output):
    return sum(t.float().square().mean() for t in tree_leaves(output) if isinstance(t, Tensor))


def made(name):
    model, (args, kwargs) = ZOO[name].model(), ZOO[name].inputs()
    args, kwargs = there(several(name, (args, kwargs)))
    return model.cuda(), args, kwargs


def train(name, session_of=None, *, guard=nullcontext, autocast=False, steps=2):
    """A few steps; what is computed, and the session. The guard is around all but the flush."""
    model, args, kwargs = made(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    session = None if session_of is None else session_of(model, args, kwargs)
    kept = []
    for _ in range(steps):
        with guard():
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                output = model(*args, **kwargs)
                loss = loss_of(output)
            loss.backward()
            optimizer.step()
        kept += [t.detach().clone() for t in tree_leaves(output) if isinstance(t, Tensor)]
        if session is not None:
            session.step(loss=loss)
    kept += [p.detach().clone() for p in model.parameters()]
    if session is not None:
        session.close()
        assert hooks_of(model) == 0
    return kept, session


def with_all_probes(model, args, kwargs):
    found = trace(model, *args, **kwargs)
    sites = [*discover(model), *found.sites]
    probes = [probe for probe in PROBED if any(map(probe.selects, sites))]
    always = {probe.name: 1 for probe in probes}
    return qprobe.attach(model, probes=probes, example=found, schedule=always)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_steps_that_all_probes_look_at_wait_for_nothing(name, autocast):
    train(name, guard=not_waiting, autocast=autocast)  # the model by itself does not wait
    _, session = train(name, with_all_probes, guard=not_waiting, autocast=autocast)
    assert not session.missed
    assert len({record.probe for record in session.records()}) > 5


@pytest.mark.parametrize("name", ["twice", "unet", "vit"])
def test_outputs_and_weights_keep_their_bits(name):
    torch.backends.cudnn.deterministic, before = True, torch.backends.cudnn.deterministic
    try:
        torch.manual_seed(0)
        plain, _ = train(name)
        torch.manual_seed(0)
        watched, _ = train(name, with_all_probes)
    finally:
        torch.backends.cudnn.deterministic = before
    assert all(map(torch.equal, plain, watched))


def test_a_flush_copies_to_the_host_once():
    """All states of all probes, and the losses that wait, in one piece."""
    model, args, kwargs = made("vit")
    with with_all_probes(model, args, kwargs) as session:
        for step in (1, 2):
            loss = loss_of(model(*args, **kwargs))
            loss.backward()
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
                session.step(loss=loss)
                torch.cuda.synchronize()
            copies = [e for e in profiled.events() if "Memcpy DtoH" in e.name]
            assert len(copies) == 1, (step, copies)


def test_numbers_are_those_of_the_host():
    """Of whole tensors: sums differ in their order alone; of a sample by a little more."""

    def numbers(device):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 32)).to(device)
        x = torch.randn(256, 64, generator=torch.Generator().manual_seed(1)).to(device)
        with qprobe.attach(model, probes=["moments", "histogram", "four_bit"]) as session:
            model(x).square().mean().backward()
            session.step()
        own = ("moments", "histogram", "four_bit")
        return {
            (r.site, r.role, r.probe, r.key): r.value for r in session.records() if r.probe in own
        }

    here, there = numbers("cpu"), numbers("cuda")
    assert there.keys() == here.keys()
    for key, value in here.items():
        assert there[key] == pytest.approx(value, rel=2e-3, abs=1e-4), key


def test_a_quantized_model_is_watched_under_its_own_recipe():
    """Its layers draw from a generator of the device; so do the probes, from one of their own."""
    model, args, kwargs = made("vit")
    convert(model, RECIPE)
    with qprobe.attach(model, example=(*args,), every=1) as session, not_waiting():
        loss_of(model(*args, **kwargs)).backward()
        torch.cuda.set_sync_debug_mode("default")
        session.step()
    assert "operand_error" in {record.probe for record in session.records()}


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_model_has_one_graph_and_is_seen(mode):
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8)).cuda()
    x = torch.randn(128, 64, device="cuda")
    with qprobe.attach(model, probes=["moments", "four_bit"], every=1) as session:
        compiled = torch.compile(model, fullgraph=True, mode=mode)
        for _ in range(4):
            compiled(x).square().mean().backward()
            session.step()
    stds = [r.value for r in session.records() if (r.site, r.role, r.key) == ("0", "input", "std")]
    assert stds == [pytest.approx(x.std(correction=0).item(), rel=1e-4)] * 4
    grads = [r for r in session.records() if (r.role, r.key) == ("grad_output", "std")]
    assert len(grads) == 8
