"""No look waits for a device: shown on any machine, with tensors that have no values.

Whatever reads a value of a tensor on the meta device fails: ``item()``, ``if tensor:``,
``nonzero``, a mask as an index. What would copy from the host to the device or back, and so wait
for it as well, is noticed on its way. What an accelerator would show beside that, on a machine that
has one, is in ``test_session_on_a_gpu``.
"""

import pytest
import torch
from sites.zoo import ZOO, several
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import qprobe
from qprobe.probes.base import PROBES, ComparingProbe
from qprobe.quant import hadamard
from qprobe.records.schema import Role
from qprobe.sites import apart, discover, trace

#: All that a recipe can ask for: tiles, rotation, random numbers.
RECIPE = "nvfp4-2d-rht-sr"
PROBED = [type(p)(recipe=RECIPE) if isinstance(p, ComparingProbe) else p for p in PROBES]
#: Its layers draw from a generator of the device that they were converted on.
MODELS = [name for name in ZOO if name != "converted"]
QUICK = ("twice", "unet", "plain attention")
PLAIN_TENSOR, PLAIN_AUTOCAST = torch.tensor, torch.autocast


class Watching(TorchDispatchMode):
    """Counts copies to the host, which bring zeros, and lists what mixes both memories."""

    def __init__(self):
        super().__init__()
        self.copies, self.mixed = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        to = torch.device(kwargs.get("device") or "meta")
        if function is torch.ops.aten._to_copy.default and given[0].is_meta and to.type == "cpu":
            self.copies += 1
            return torch.zeros(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype)
        made = function(*args, **kwargs)
        tensors = [t for t in (*given, *tree_leaves(made)) if isinstance(t, Tensor) and t.dim()]
        if len({t.device.type for t in tensors}) > 1:
            self.mixed.append(str(function))
        return made


class Generator(torch.Generator):
    """One that says it is on the device, as there is none of the meta device."""

    device = torch.device("meta")

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")


@pytest.fixture
def watching(monkeypatch):
    """The meta device in the place of an accelerator."""

    def tensor(data, *, device=None, **options):
        if device is not None and torch.device(device).type != "cpu":
            mode.mixed.append("tensor")  # PyTorch makes it on the host and copies it
        return PLAIN_TENSOR(data, device=device, **options)

    mode = Watching()
    monkeypatch.setattr(hadamard, "_matrices", {})  # as before the first look of a process
    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "autocast", lambda _, **how: PLAIN_AUTOCAST("cpu", **how))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    # Receivers are called without the mode, as selective checkpointing wants it.
    monkeypatch.setattr(apart, "_get_current_dispatch_mode", lambda: None)
    return mode


def on_meta(values):
    return tree_map_only(Tensor, lambda t: t.to("meta"), values)


def loss_of(output):
    return sum(t.square().sum() for t in tree_leaves(output) if isinstance(t, Tensor))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MODELS]
)
def test_steps_that_all_probes_look_at_wait_for_nothing_but_one_copy(name, watching):
    model, (args, kwargs) = ZOO[name].model(), ZOO[name].inputs()
    found = trace(model, *args, **kwargs)
    sites = [*discover(model), *found.sites]
    probes = [probe for probe in PROBED if any(map(probe.selects, sites))]
    args, kwargs = on_meta(several(name, (args, kwargs)))
    optimizer = torch.optim.SGD(model.to("meta").parameters(), lr=0.1)
    options = {"example": found, "schedule": {probe.name: 1 for probe in probes}}
    with watching, qprobe.attach(model, probes=probes, **options) as session:
        for step in (1, 2):
            loss = loss_of(model(*args, **kwargs))
            loss.backward()
            optimizer.step()
            assert session._observer.looks > 0
            assert (watching.copies, watching.mixed) == (step - 1, [])
            session.step(loss=loss)
            assert (watching.copies, watching.mixed) == (step, [])
    assert not session.missed
    looked = {record.probe for record in session.records()}
    assert looked >= {probe.name for probe in probes} - {"attention_maps"}


def test_a_step_that_nothing_looks_at_calls_nothing(monkeypatch):
    """Not one operation: the model and the optimizer make the same calls as without."""
    monkeypatch.setattr(apart, "_get_current_dispatch_mode", lambda: None)
    counted = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            counted.append(str(function))
            return function(*args, **(kwargs or {}))

    model, (args, _) = ZOO["plain attention"].model(), ZOO["plain attention"].inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(session=None):
        counted.clear()
        torch.manual_seed(0)
        with Counting():
            optimizer.zero_grad()
            model(*args).square().sum().backward()
            optimizer.step()
            if session is not None:
                session.step(loss=1.0)
        return list(counted)

    step()  # gradients are there from now on
    alone = step()
    with qprobe.attach(model, probes=PROBED, every=3, example=args) as session:
        looked, *others = (step(session) for _ in range(3))
    assert len(looked) > len(alone)
    assert others == [alone, alone]


@pytest.mark.parametrize(
    "wait",
    [
        lambda t: t.sum().item(),
        lambda t: bool(t.sum() > 0),
        lambda t: t.nonzero(),
        lambda t: t[t > 0],
        lambda t: t.cpu(),
        lambda t: t.unique(),
        lambda t: torch.arange(3).to(t.device),
        lambda t: t[:, torch.arange(3)],
        lambda t: torch.tensor([1.0], device=t.device),
    ],
)
def test_whatever_waits_is_noticed(wait, watching):
    class Waiting:
        name, needs = "waiting", frozenset()

        def selects(self, site):
            return site.role is Role.INPUT

        def observe(self, view):
            wait(view.tensor)

    model = nn.Linear(4, 4).to("meta")
    try:
        with watching, qprobe.attach(model, probes=[Waiting()]):
            model(torch.randn(8, 4, device="meta"))
    except (RuntimeError, NotImplementedError):  # there is no value to read
        return
    assert watching.copies or watching.mixed
