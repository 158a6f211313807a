"""What people do to models while somebody watches: nothing breaks, moves a bit or is left behind.

All registered probes look at every step.
"""

import copy
import gc
import importlib
import io
import sys
import threading
import warnings
import weakref
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from plain_probes import under_a_recipe
from sites.zoo import Inner, PlainAttention, hooks_of, loss_of
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn.utils import parametrizations
from torch.optim import optimizer as optimizers
from torch.utils.checkpoint import checkpoint

import qprobe
from qprobe.probes.base import PROBES
from qprobe.records import Status
from qprobe.sites import Tap
from qprobe.sites.dataflow import tensors_in


@pytest.fixture(autouse=True)
def _every_probe_at_every_step(monkeypatch):
    probes = tuple(copy.copy(under_a_recipe(probe)) for probe in PROBES)
    for probe in probes:
        probe.every = 1
    door = importlib.import_module("qprobe.probes.attach")
    monkeypatch.setattr(door, "_default", lambda: probes)


def small(*, example=False):
    """A model, and what it is called with."""
    torch.manual_seed(0)
    if example:
        return PlainAttention(), torch.randn(3, 5, 6)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(6, 8)


def moments_of(session, key="n"):
    found = [r for r in session.records() if r.probe == "moments" and r.key == key]
    return {(r.step, r.site, r.role): r.value for r in found}


def train(make, given, *, watch):
    """The bits of two steps, the session and the model."""
    torch.manual_seed(0)
    model = make().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    session = qprobe.attach(model, every=1, example=given) if watch else None
    torch.manual_seed(1)
    kept = []
    for _ in range(2):
        optimizer.zero_grad()
        outputs = [t for t in tensors_in(model(**given)) if t.requires_grad]
        sum(loss_of(one) for one in outputs).backward()
        kept += [*outputs, *(p.grad for p in model.parameters() if p.grad is not None)]
        kept = [t.detach().to_dense().clone() for t in kept]
        optimizer.step()
        if session is not None:
            session.step(loss=1.0)
    kept += [t.detach() for t in (*model.parameters(), *model.buffers())]
    return [*kept, torch.random.get_rng_state()], session, model


class Wrapper(nn.Module):
    """As data parallelism wraps."""

    def __init__(self):
        super().__init__()
        self.module = small()[0]

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@dataclass
class Output:
    main: torch.Tensor
    others: list


class Contained(nn.Module):
    """Layers that return a dictionary and a tuple with None, and a dataclass in the end."""

    class Mapped(nn.Linear):
        def forward(self, x):
            return {"y": super().forward(x), "none": None}

    class Listed(nn.Linear):
        def forward(self, mask, x):
            return None, super().forward(x), 3

    def __init__(self):
        super().__init__()
        self.mapped, self.listed = self.Mapped(8, 8), self.Listed(8, 8)

    def forward(self, input, nothing=None):  # noqa: A002
        y = self.mapped(x=input)["y"]
        return Output(self.listed(nothing, x=y)[1], [y.relu(), {"k": y}])


class Nested(nn.Module):
    """One checkpoint inside another."""

    def __init__(self, outer, inner):
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(8, 4), Inner(), Inner()
        self.outer, self.inner = outer, inner

    def forward(self, input):  # noqa: A002
        def part(x):
            return checkpoint(self.b, self.a(x), use_reentrant=self.inner)

        return checkpoint(part, self.stem(input), use_reentrant=self.outer)


class Overwritten(nn.Module):
    """In-place operations on outputs of layers, and on views of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Conv1d(2, 2, 1)
        self.norm, self.d = nn.InstanceNorm1d(2), nn.Linear(8, 4)

    def forward(self, input):  # noqa: A002
        y = self.a(input)
        y += 1
        y[:, :2].mul_(2)
        z = self.b(F.relu_(y))
        z[0].zero_()
        w = self.c(self.norm(z.view(-1, 2, 4))).add_(1)
        w[:, :1].mul_(3)
        u = self.d(w.view(-1, 8))
        u.view(-1).mul_(2)
        return u


class Lora(nn.Module):
    """A frozen layer beside two small ones."""

    def __init__(self):
        super().__init__()
        self.stem, self.base = nn.Linear(8, 8), nn.Linear(8, 8).requires_grad_(False)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, input):  # noqa: A002
        x = self.stem(input)
        return self.base(x) + self.up(self.down(x)) * 2


class Tied(nn.Module):
    """An embedding whose weight is that of the head, or has a sparse gradient."""

    def __init__(self, *, sparse):
        super().__init__()
        self.embed, self.head = nn.Embedding(8, 8, sparse=sparse), nn.Linear(8, 8, bias=False)
        if not sparse:
            self.head.weight = self.embed.weight

    def forward(self, input):  # noqa: A002
        return self.head(self.embed(input.argmax(-1)).relu())


class Recursive(nn.Module):
    """A model that calls itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, input, depth=2):  # noqa: A002
        y = self.layer(input).relu()
        return self(y, depth - 1) + input if depth else y


def normed(norm):
    return lambda: nn.Sequential(norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 4))


MODELS = {
    "wrapper": Wrapper,
    "containers": Contained,
    "weight norm": normed(parametrizations.weight_norm),
    "spectral norm": normed(parametrizations.spectral_norm),
    "spectral norm by hook": normed(nn.utils.spectral_norm),
    "checkpoints": lambda: Nested(False, False),
    "reentrant inside": lambda: Nested(False, True),
    "reentrant outside": lambda: Nested(True, False),
    "overwritten": Overwritten,
    "lora": Lora,
    "tied": lambda: Tied(sparse=False),
    "sparse": lambda: Tied(sparse=True),
    "recursive": Recursive,
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_a_strange_model_keeps_its_bits_and_is_seen_whole(name):
    given = {"input": torch.randn(6, 8, generator=torch.Generator().manual_seed(0))}
    plain, _, model = train(MODELS[name], given, watch=False)
    hooks = hooks_of(model)
    seen, session, model = train(MODELS[name], given, watch=True)
    assert session.missed == ()
    session.close()
    assert len(plain) == len(seen)
    assert all(map(torch.equal, plain, seen))
    assert hooks_of(model) == hooks


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("example", [False, True])
def test_functional_transforms_keep_their_bits_and_are_not_looked_at(example):
    model, x = small()
    given = dict(model.named_parameters())

    def loss(parameters, one):
        return functional_call(model, parameters, (one,)).square().sum()

    def transformed():
        return [
            *grad(loss)(given, x).values(),
            *vmap(grad(loss), in_dims=(None, 0))(given, x).values(),
            vmap(model)(x),
            *jvp(model, (x,), (x,)),
            jacrev(model)(x[:1]),
        ]

    plain = transformed()
    with qprobe.attach(model, every=1, example=x if example else None) as session:
        assert all(map(torch.equal, plain, transformed()))
        model(x).sum().backward()
        session.step()
    assert moments_of(session)[1, "0", "input"] == x.numel()
    assert hooks_of(model) == 0


def test_a_second_derivative_keeps_its_bits():
    model, x = small()
    x.requires_grad_()

    def second():
        (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [*model.parameters()], allow_unused=True)

    plain = second()
    with qprobe.attach(model, every=1) as session:
        seen = second()
        session.step()
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(plain, seen, strict=True))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_a_pass_ends_that_pass_alone(error):
    model, x = small(example=True)

    def stop(*_):
        raise error

    with qprobe.attach(model, every=1, example=x) as session:
        handle = model.proj.register_forward_pre_hook(stop)
        with pytest.raises(error):
            model(x)
        handle.remove()
        session.observe_next()  # a notebook goes on
        assert not torch.overrides._is_torch_function_mode_enabled()
        model(x).sum().backward()
        session.step()
        assert session.missed == ()
    branches = [r for r in session.records() if (r.probe, r.key) == ("branch_energy", "n")]
    assert branches
    assert {r.value for r in branches} == {3.0}  # the batch of the pass that was whole
    assert hooks_of(model) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_may_change_its_type(dtype):
    model, x = small()
    with qprobe.attach(model, every=1) as session:
        for kind in (torch.float32, dtype):
            model.to(kind)
            model.zero_grad()
            model(x.to(kind)).sum().backward()
            session.step()
        model[0].weight = nn.Parameter(torch.randn(8, 8, dtype=dtype))  # and its parameters
        model(x.to(dtype)).sum().backward()
        session.step()
    assert {step for step, _, _ in moments_of(session)} == {1, 2, 3}


@pytest.mark.parametrize("example", [False, True])
def test_a_copy_of_a_watched_model_is_not_watched(example):
    model, x = small(example=example)
    with qprobe.attach(model, every=1, example=x) as session:
        stored = io.BytesIO()
        torch.save(model, stored)
        stored.seek(0)
        averaged = torch.optim.swa_utils.AveragedModel(model)
        averaged.update_parameters(model)
        loaded = torch.load(stored, weights_only=False)
        for twin in (copy.deepcopy(model), loaded, averaged):
            twin(x).sum().backward()
        assert session._observer.looks == 0
        assert all(torch.is_tensor(value) for value in model.state_dict().values())
        model(x).sum().backward()
        session.step()
    assert session.missed == ()


def test_two_sessions_see_the_same_and_leave_one_by_one():
    model, x = small(example=True)
    first = qprobe.attach(model, every=1, example=x)
    second = qprobe.attach(model, every=1, example=x)  # its trace is no pass of the first
    model(x).sum().backward()
    first.step()
    second.step()
    one, other = (
        [(r.column, r.value) for r in session.records() if r.probe == "moments"]
        for session in (first, second)
    )
    assert one == other
    assert one
    first.close()
    model(x).sum().backward()
    second.step()
    assert second.missed == ()
    second.close()
    first.close()
    assert hooks_of(model) == 0


def test_without_a_step_nothing_grows():
    model, x = small()
    held = []
    session = qprobe.attach(model, every=1)
    for count in range(20):
        model(x).sum().backward()
        if count in (2, 19):
            observer = session._observer
            held.append(
                (len(observer._states), len(observer._pending), len(session._capture._gradients))
            )
    session.step()
    session.close()
    assert held[0] == held[1]


@pytest.mark.parametrize("closed", [True, False])
def test_nothing_holds_a_session_or_its_model(closed):
    model, x = small(example=True)
    session = qprobe.attach(model, every=1, example=x)
    model(x).sum().backward()
    session.step()
    if closed:
        session.close()
    alive = [weakref.ref(one) for one in (session, session._observer, session._capture)]
    before = len(optimizers._global_optimizer_pre_hooks)
    del session
    if not closed:
        alive.append(weakref.ref(model))
        del model
    for _ in range(2):  # what PyTorch still holds in the first pass is gone in the second
        gc.collect()
    assert [one() for one in alive] == [None] * len(alive)
    after = len(optimizers._global_optimizer_pre_hooks)
    assert after == before - (not closed)


def test_a_thread_that_evaluates_disturbs_nobody(monkeypatch):
    model, x = small(example=True)
    errors, done = [], threading.Event()

    def evaluate():
        try:
            with torch.no_grad():
                while not done.is_set():
                    model(x)
        except BaseException as error:
            errors.append(error)
            raise

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with qprobe.attach(model, every=1, example=x) as session:
            thread = threading.Thread(target=evaluate)
            thread.start()
            for _ in range(5):
                model(x).sum().backward()
                session.step()
            done.set()
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    assert session.missed == ()
    counts = {at[1:]: n for at, n in moments_of(session).items()}
    assert moments_of(session) == {
        (step, *at): n for at, n in counts.items() for step in range(1, 6)
    }
    assert counts["embed", "input"] == x.numel()
    assert not torch.overrides._is_torch_function_mode_enabled()


def test_a_thread_that_trains_is_watched():
    model, x = small(example=True)

    def step():
        model(x).sum().backward()
        session.step()

    with qprobe.attach(model, every=1, example=x) as session:
        for _ in range(2):
            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
        assert session.missed == ()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_that_are_forked_leave_the_run_alone(tmp_path):
    model, _ = small()
    data = torch.utils.data.DataLoader(torch.randn(8, 8), 4, num_workers=2)
    with qprobe.attach(model, run=tmp_path / "x.qprobe", every=1) as session:
        for x in data:
            model(x).sum().backward()
            session.step(loss=1.0)
    with qprobe.open(tmp_path / "x.qprobe") as run:
        assert run.meta.status is Status.FINISHED
        assert len([r for r in run.records() if r.key == "loss"]) == 2


def test_batches_without_a_backward_and_steps_that_a_scaler_skips():
    model, x = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    options = {"optimizer": optimizer, "loss_scale": scaler.get_scale, "every": 1}
    with qprobe.attach(model, **options) as session:
        for count in range(6):
            loss = model(x).sum()
            if count == 4:
                continue  # a batch that the loop gives up
            scaler.scale(loss * (float("inf") if count == 1 else 1.0)).backward()
            if count % 2:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    assert session.steps == 2  # the second of three was skipped
    seen = moments_of(session)
    batch = x.numel()
    assert seen[1, "0", "input"] == 4 * batch  # with the batches of the step that was skipped
    assert seen[2, "0", "input"] == 2 * batch
    assert seen[2, "0", "grad_output"] == batch
    scales = [r.value for r in session.records() if r.key == "loss_scale"]
    assert scales == [4.0, 2.0]


def adam(model, **options):
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.1}]
    return torch.optim.Adam(groups, **options)


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {}])
def test_any_adam_counts_steps_and_keeps_its_bits(options):
    results = []
    for watch in (False, True):
        model, x = small()
        optimizer = adam(model, **options)
        session = qprobe.attach(model, every=1, optimizer=optimizer) if watch else None
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
    assert session.steps == 3
    assert session.missed == ()
    session.close()
    assert all(map(torch.equal, *results))


class Gradients:
    """Sums of gradients of weights."""

    name, needs = "gradients", frozenset()

    def __init__(self):
        self.sums = []

    def selects(self, site):
        return str(site) == "linear 0 grad_weight"

    def observe(self, view):
        self.sums.append(view.tensor.double().sum().item())


def test_a_closure_gives_gradients_of_its_own_and_none_of_the_step_before():
    model, x = small()
    optimizer, last, probe = torch.optim.LBFGS(model.parameters(), max_iter=2), [], Gradients()

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        last.append(model[0].weight.grad.double().sum().item())
        return loss

    with qprobe.attach(model, probes=[probe], optimizer=optimizer, every=1) as session:
        for step in (1, 2):
            optimizer.step(closure)
            assert session.steps == step
            assert probe.sums == [*probe.sums[:-1], last[-1]]
    assert len(probe.sums) == 2


def test_batches_that_are_empty_bare_nested_or_not_finite():
    model, x = small()
    odd = [x[:0], x[0], x.view(1, 2, 3, 8), torch.full_like(x, float("nan"))]
    ragged = torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.jagged)
    with qprobe.attach(model, every=1, example=x) as session:
        for one in odd:
            model(one).sum().backward()
            session.step()
        model(ragged).values().sum().backward()
        session.step()
    seen = {step for step, _, role in moments_of(session) if role == "input"}
    assert seen == {1, 2, 3, 4}  # rows of different length have no statistics


def test_a_layer_that_is_one_by_its_class_alone_is_said_to_be_missed():
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(3, 6))
    model[0].register_forward_hook(lambda module, given, made: made.mT)
    session = qprobe.attach(model, every=1)
    model(torch.randn(2, 3, 8)).sum().backward()
    session.step()
    assert "output_error at linear 0 grad_output" in {f"{n} at {s}" for n, s in session.missed}
    with pytest.warns(UserWarning, match="planned and never seen"):
        session.close()


def test_a_tensor_whose_channels_change_is_said_and_summarised_again():
    model = nn.Sequential(nn.Linear(8, 8), Tap("any"))
    options = {"probes": ["moments"], "schedule": {"moments": 1}, "sites": "./any"}
    with qprobe.attach(model, **options) as session:
        for width in (8, 4):
            model[1](torch.randn(3, width, requires_grad=True)).sum().backward()
            session.step()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for width in (4, 8, 8):
                model[1](torch.randn(3, width, requires_grad=True)).sum().backward()
            session.step()
    counts = {step: n for (step, _, role), n in moments_of(session).items() if role == "output"}
    assert counts == {1: 24.0, 2: 12.0, 3: 12.0}
    assert len([w for w in said if "8 channels after 4" in str(w.message)]) == 2  # both roles
