"""When a session looks, what it files, and what it costs."""

import pytest
import torch
from plain_probes import Alone, Together, Windowed, seen
from torch import nn

import qprobe
from qprobe import Every, records
from qprobe.errors import InputError
from qprobe.probes import packing, results
from qprobe.probes.packing import Packed
from qprobe.probes.schedule import ON_DEMAND
from qprobe.records.schema import Role
from qprobe.sites import Site


class Inputs(Alone):
    def selects(self, site):
        return site.role is Role.INPUT


class Weights(Alone):
    name = "weights"

    def selects(self, site):
        return site.role in (Role.WEIGHT, Role.GRAD_WEIGHT)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))


def go(model, session, steps=1, x=None, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(8, 4) if x is None else x
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
        session.step()


def value(session, site, role, key, probe="alone", step=1):
    (found,) = (
        r.value for r in session.records() if (r.step, *r.column) == (step, site, role, probe, key)
    )
    return found


def steps_of(session, probe="alone"):
    return sorted({r.step for r in session.records() if r.probe == probe})


def test_it_looks_at_the_first_step_and_every_tenth():
    model = small()
    with qprobe.attach(model, probes=[Inputs()]) as session:
        go(model, session, 25)
    assert steps_of(session) == [1, 11, 21]


def test_schedules_of_single_probes_and_on_demand():
    model = small()
    schedule = {"alone": Every(3, first=2, last=8), "weights": ON_DEMAND}
    with qprobe.attach(model, probes=[Inputs(), Weights()], schedule=schedule) as session:
        go(model, session, 3)
        session.observe_next()
        go(model, session, 7)
    assert steps_of(session) == [2, 4, 5, 8]
    assert steps_of(session, "weights") == [4]
    with pytest.raises(InputError, match="'other', which does not look here"):
        qprobe.attach(model, probes=[Inputs()], schedule={"other": 3})


def test_layers_in_turn():
    model = small()
    with qprobe.attach(model, probes=[Inputs()], schedule={"alone": Every(1, layers=2)}) as session:
        go(model, session, 4)
    found = {(r.step, r.site) for r in session.records() if r.probe == "alone"}
    assert found == {(1, "0"), (2, "2"), (3, "0"), (4, "2")}


def test_a_heavy_probe_is_asked_less_often_by_default():
    class Heavy(Inputs):
        every = 4

    model = small()
    with qprobe.attach(model, probes=[Heavy()], every=1) as session:
        go(model, session, 6)
    assert steps_of(session) == [1, 5]


def test_micro_batches_are_one_observation_of_all():
    model, x = small(), torch.randn(6, 4)
    with qprobe.attach(model, probes=[Windowed(), Inputs()], every=1) as session:
        for part in x.chunk(3):
            model(part).sum().backward()
        session.step()
    assert value(session, "0", "input", "n") == 24
    assert value(session, "0", "input", "looks") == 3
    assert value(session, "0", "input", "kurtosis", "windowed") == pytest.approx(
        float(seen(x).moments.kurtosis()), rel=1e-5
    )


def test_weights_are_those_of_the_pass_and_gradients_are_whole():
    model, x = small(), torch.randn(6, 4)
    before = model[0].weight.detach().clone()
    with qprobe.attach(model, probes=[Weights()], every=1) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for part in x.chunk(2):
            model(part).sum().backward()
        gradient = model[0].weight.grad.clone()
        optimizer.step()
        optimizer.zero_grad()  # they are gone when step() is called
        session.step()
    assert value(session, "0", "weight", "mean", "weights") == pytest.approx(float(before.mean()))
    found = value(session, "0", "grad_weight", "mean", "weights")
    assert found == pytest.approx(float(gradient.double().mean()))


def test_weights_without_an_optimizer_of_pytorch():
    model = small()
    before = model[0].weight.detach().double().mean().item()
    with qprobe.attach(model, probes=[Weights()], every=1) as session:
        model(torch.randn(2, 4)).sum().backward()
        session.read_weights()
        with torch.no_grad():
            model[0].weight.zero_()
        session.step()
    assert value(session, "0", "weight", "mean", "weights") == pytest.approx(before)


def test_companions_are_the_same_examples_of_one_call():
    class Pair:
        name = "pair"
        needs = frozenset({Role.INPUT, Role.GRAD_OUTPUT, Role.WEIGHT})

        def selects(self, site):
            return site.role is Role.GRAD_OUTPUT and site.kind == "linear"

        def observe(self, view):
            x, dy = view[Role.INPUT], view[Role.GRAD_OUTPUT]
            assert len(x) == len(dy) == 4
            # The gradient of a row is that row's number: see the loss below.
            assert torch.equal(dy[..., 0, 0], x[..., 0, 0])
            assert view[Role.WEIGHT] is not None
            return seen(dy)

    model = nn.Linear(2, 2)
    x = torch.arange(32.0).view(32, 1, 1).expand(32, 200, 2)
    with qprobe.attach(model, probes=[Pair()], every=1) as session:
        first, second = model(x), model(x + 100)  # two passes before any backward
        (first * x).sum().backward()
        (second * (x + 100)).sum().backward()
        session.step()
    assert value(session, ".", "grad_output", "looks", "pair") == 2


def test_a_run_file_a_sink_and_scalars_of_every_step(tmp_path):
    model, told = small(), []
    path = tmp_path / "x.qprobe"
    sink = lambda *one: told.append(one)  # noqa: E731
    with qprobe.attach(model, run=path, probes=[Windowed()], every=2, sink=sink) as session:
        for step in range(3):
            model(torch.randn(8, 4)).sum().backward()
            session.step(loss=torch.tensor(float(step)), lr=0.5)
    with records.open(path) as run:
        assert run.series("", "", "training", "loss").values.tolist() == [0.0, 1.0, 2.0]
        assert run.series("0", "input", "windowed", "n").steps.tolist() == [1, 3]
        assert run.series("", "", "session", "interval").values.tolist() == [2.0, 2.0]
        assert [array.step for array in run.arrays(site="0", role="input", key="magnitudes")] == [1]
        assert run.meta.status == "finished"
    assert ("training/loss", 2.0, 3) in told
    assert ("windowed/0/input/n", 32.0, 1) in told


def test_a_training_that_goes_on_goes_on_in_its_file(tmp_path):
    model, path = small(), tmp_path / "x.qprobe"
    for start in (0, 3):
        with qprobe.attach(model, run=path, probes=[Inputs()], every=2, start=start) as session:
            go(model, session, 3)
    with records.open(path) as run:
        assert run.series("0", "input", "alone", "n").steps.tolist() == [1, 3, 5]


def test_a_writer_of_somebody_else_is_left_open(tmp_path):
    info = records.RunInfo(config={}, environment={})
    with records.create(tmp_path / "x.qprobe", info) as writer:
        model = small()
        with qprobe.attach(model, run=writer, probes=[Inputs()]) as session:
            go(model, session)
        writer.record(1, records.Column("", "", "mine", "x"), 1.0)


def test_what_never_happens_is_said_once_and_recorded():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    model = Branching()
    session = qprobe.attach(model, probes=[Inputs()], every=1)
    with pytest.warns(UserWarning, match="never seen so far: alone at linear unused input;"):
        go(model, session, 4)
    assert session.missed == (("alone", Site("unused", Role.INPUT, "linear")),)
    session.close()
    assert session.report().missed == session.missed
    assert value(session, "unused", "input", "missed.alone", "session", step=4) == 4.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_the_budget_is_kept_and_said(tmp_path):
    clock = Clock()
    cost = [0.5]

    class Slow(Inputs):
        def observe(self, view):
            clock.now += cost[0]
            return super().observe(view)

    model, path = small(), tmp_path / "x.qprobe"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with qprobe.attach(
        model, run=path, probes=[Slow()], every=10, budget="2%", sites="0", clock=clock
    ) as session:
        for step in range(400):
            if step == 200:
                cost[0] = 0.01  # the machine is free again
            clock.now += 1.0
            go(model, session, 1, optimizer=optimizer)
            if step == 199:
                report = session.report()
    # Half a second each ten seconds is 5 %; every 30 steps it is 1.7 %.
    assert report.stretch == 3
    assert report.seconds <= 0.02 * report.others_s
    assert (report.budget, report.steps_in_debt, report.waiting) == (0.02, 0, ())
    with records.open(path) as run:
        intervals = run.series("", "", "session", "interval")
    # The first look is paid back, and the next paid for, before it: 2 · 0.5 s at 2 % is 50 steps.
    assert intervals.steps[:4].tolist() == [1, 51, 81, 111]
    assert intervals.values[:3].tolist() == [30.0, 30.0, 30.0]
    assert intervals.values[-1] == 10.0
    assert min(intervals.values) == 10.0  # never more often than asked


def test_layers_that_there_was_no_room_for_are_said_and_arrays_of_all_are_kept():
    clock = Clock()

    class Slow(Inputs):
        def observe(self, view):
            clock.now += 1.0
            return super().observe(view)

    model = small()
    with qprobe.attach(model, probes=[Slow()], budget="5%", clock=clock, arrays=10) as session:
        for step in range(45):
            clock.now += 1.0
            go(model, session)
            if step == 1:
                report = session.report()
    assert report.steps_in_debt == 18
    assert [(name, site.path) for name, site in report.waiting] == [("alone", "0")]
    assert "1 planned look never had room in the budget" in str(report)
    assert session.report().waiting == ()
    assert steps_of(session) == [1, 21]
    assert {array.column.site for array in session.arrays()} == {"0", "2"}
    waiting = [r.value for r in session.records() if r.column.key == "waiting"]
    assert waiting == [1.0, 0.0]


def test_what_is_taken_up_under_a_budget_looks_as_the_whole_by_the_same_clock():
    """The account is saved: which looks there is room for depends on the time they take alone."""

    def watched(model, steps, start=0, state=None):
        clock = Clock()

        class Slow(Inputs):
            def observe(self, view):
                clock.now += 0.3
                return super().observe(view)

        options = {"budget": "5%", "every": 2, "start": start, "clock": clock}
        session = qprobe.attach(model, probes=[Slow()], **options)
        if state is not None:
            session.load_state_dict(state)
        for _ in range(steps):
            clock.now += 1.0
            go(model, session)
        seen = [(r.step, r.site) for r in session.records() if r.column.key == "n"]
        return session, seen

    _, whole = watched(small(), 60)
    for stop in range(1, 26):
        first, before = watched(small(), stop)
        _, after = watched(small(), 60 - stop, stop, first.state_dict())
        assert before + after == whole, stop
    assert len({site for _, site in whole}) == 2
    assert 4 < len(whole) < 40


def test_a_single_site_brings_what_its_probe_needs():
    model = small()
    site = Site("0", Role.GRAD_OUTPUT, "linear")
    with qprobe.attach(model, probes=[Together()], sites=[site], every=1) as session:
        go(model, session)
    assert session.missed == ()
    assert {(r.site, r.role) for r in session.records() if r.probe == "together"} == {
        ("0", "grad_output")
    }


def test_without_a_budget_the_interval_stays():
    model = small()
    with qprobe.attach(model, probes=[Inputs()], every=1) as session:
        go(model, session, 5)
    assert session.report().stretch == 1
    assert session.report().overhead > 0


def test_a_step_that_is_not_due_does_no_work(monkeypatch):
    model = small()
    with qprobe.attach(model, probes=[Alone(), Windowed(), Together()], every=100) as session:
        go(model, session)
        looks, counted = session._observer.looks, []
        assert looks > 0

        def counting(*_):
            counted.append(1)

        monkeypatch.setattr(type(session._capture), "deliver", counting)
        monkeypatch.setattr(type(session._capture), "on_gradient", counting)
        monkeypatch.setattr(type(session._capture), "_number", counting)
        go(model, session, 5)
        assert session._observer.looks == looks
        assert not counted


def test_nothing_is_watched_before_the_first_look(monkeypatch):
    model = small()
    with qprobe.attach(
        model,
        probes=[Alone(), Windowed()],
        schedule={"alone": Every(9, first=9), "windowed": ON_DEMAND},
    ) as session:
        delivered = []
        monkeypatch.setattr(type(session._capture), "deliver", lambda *_: delivered.append(1))
        go(model, session, 3)
        assert not delivered


def test_memory_does_not_grow_with_steps_or_tokens():
    model = small()

    def held(session):
        observer = session._observer
        summaries = sum(one.buffer.nbytes for one in observer._summaries.values())
        return summaries, len(observer._states), len(observer._pending)

    sizes = []
    with qprobe.attach(model, probes=[Alone(), Windowed(), Together()], every=1) as session:
        for tokens in (8, 8, 4096):
            go(model, session, 2, x=torch.randn(tokens, 4))
            for _ in range(5):  # passes without a backward
                model(torch.randn(tokens, 4))
            sizes.append(held(session))
            session.step()
            assert held(session)[1:] == (0, 0)
    assert sizes[0] == sizes[1] == sizes[2]
    assert session._observer._summaries == {}


def test_one_copy_to_the_host_for_each_flush(monkeypatch):
    copies = []
    whole = Packed.to_host

    def to_host(self):
        copies.append(self.data.numel())
        return whole(self)

    monkeypatch.setattr(Packed, "to_host", to_host)
    monkeypatch.setattr(
        results, "on_host", lambda objects: packing.pack(objects).to_host().unpack()
    )
    model = small()
    with qprobe.attach(model, probes=[Alone(), Windowed(), Together()], every=2) as session:
        go(model, session, 4)
    assert len(copies) == 2
    assert copies[0] == copies[1] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype):
    model = small()
    with qprobe.attach(model, probes=[Windowed(), Together()], every=1) as session:
        with torch.autocast("cpu", dtype):
            loss = model(torch.randn(8, 4)).float().pow(2).mean()
        loss.backward()
        session.step()
    assert session.missed == ()
    assert value(session, "0", "grad_output", "n", "windowed") == 48


def test_evaluation_between_two_steps_does_not_count():
    model, x = small(), torch.randn(8, 4)
    with qprobe.attach(model, probes=[Inputs()], every=1) as session:
        model.eval()
        with torch.no_grad():
            model(torch.randn(100, 4))
        model.train()
        go(model, session, x=x)
    assert value(session, "0", "input", "n") == 32


def test_what_cannot_be_is_refused():
    model = small()
    with pytest.raises(InputError, match=r"no site 'nowhere\*'"):
        qprobe.attach(model, probes=[Inputs()], sites="nowhere*")
    with pytest.raises(InputError, match="no share of a step"):
        qprobe.attach(model, probes=[Inputs()], budget="200%")
    session = qprobe.attach(model, probes=[Inputs()])
    session.close()
    session.close()
    with pytest.raises(InputError, match="is closed"):
        session.step()


def test_a_probe_that_fails_says_where():
    class Failing(Inputs):
        def observe(self, view):
            raise ValueError("no")

    model = small()
    with pytest.raises(ValueError, match="no") as caught, qprobe.attach(model, probes=[Failing()]):
        model(torch.randn(2, 4))
    assert "alone at linear 0 input, shape [2, 4]" in caught.value.__notes__[0]


def test_the_loss_scale_reaches_probes_and_the_record():
    scales = []

    class Scaled(Inputs):
        def observe(self, view):
            scales.append(view.loss_scale)

    model = small()
    with qprobe.attach(model, probes=[Scaled()], every=1, loss_scale=lambda: 512.0) as session:
        go(model, session)
    assert set(scales) == {512.0}
    assert value(session, "", "", "loss_scale", "session") == 512.0


def test_an_optimizer_counts_the_steps():
    model = small()
    optimizer, other = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    with qprobe.attach(model, probes=[Inputs()], every=2, optimizer=optimizer) as session:
        for _ in range(3):
            model(torch.randn(8, 4)).pow(2).mean().backward()
            other.step()
            optimizer.step()
            session.log(loss=1.0)
        with pytest.raises(InputError, match="counted by the optimizer that it was given"):
            session.step()
    assert session.steps == 3
    assert steps_of(session) == [1, 3]
    assert steps_of(session, "training") == [1, 2, 3]
    optimizer.step()  # nobody counts any more
    assert session.steps == 3
