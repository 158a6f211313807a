"""Two processes, one record: equal to that of one process that sees all batches."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from plain_probes import Alone, Windowed, under_a_recipe
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import qprobe
from qprobe import records
from qprobe.errors import InputError
from qprobe.probes import ranks
from qprobe.probes.base import PROBES
from qprobe.records.schema import Role
from qprobe.sites import discover

BATCHES = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(1))


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))


class Moments(Windowed):
    def selects(self, site):
        return site.kind == "linear"


def steps(model, session, batches, *, skip=()):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for number, batch in enumerate(batches):
        optimizer.zero_grad()
        if number not in skip:
            model(batch).pow(2).sum().backward()
            optimizer.step()
        session.step(loss=1.0)


def found_in(path):
    with records.open(path) as run:
        return {
            (column, step): value
            for column in run.columns()
            if column.probe not in ("session", "training")
            for step, value in zip(*_series(run, column), strict=True)
        }


def _series(run, column):
    series = run.series(*column)
    return series.steps.tolist(), series.values.tolist()


def worker(rank, kind, path, port):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        for one in kind.split("+"):
            WORK[one](rank, path / f"{one}.qprobe")
            dist.barrier()
    finally:
        dist.destroy_process_group()


def data_parallel(rank, path):
    model = DistributedDataParallel(model_of())
    with qprobe.attach(model, run=path, probes=[Moments(), Alone()], every=2) as session:
        steps(model, session, [batch.chunk(2)[rank] for batch in BATCHES])


def sharded(rank, path):
    model = model_of()
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    with qprobe.attach(model, run=path, probes=[Moments(), Alone()], every=2) as session:
        steps(model, session, [batch.chunk(2)[rank] for batch in BATCHES])


def skipping(rank, path):
    """The second process never has a batch, and neither waits for the other."""
    model = model_of()
    with qprobe.attach(model, run=path, probes=[Alone()], every=1) as session:
        steps(model, session, [b.chunk(2)[rank] for b in BATCHES], skip=range(3) if rank else ())


def apart(rank, path):
    model = model_of()
    session = qprobe.attach(model, probes=[Alone()], every=1, start=rank)
    model(BATCHES[0]).sum().backward()
    with pytest.raises(InputError, match=r"at steps \[1, 2\]"):
        session.step()
    session.close()


def everything(rank, path):
    """All probes under a budget; the second process now and then has no batch, or another one."""
    model = model_of()
    probes = [under_a_recipe(probe) for probe in PROBES if any(map(probe.selects, discover(model)))]
    always = {probe.name: 1 for probe in probes}
    run = path if rank == 0 else None
    with qprobe.attach(model, run, probes, schedule=always, budget="50%") as session:
        steps(model, session, [*BATCHES, *BATCHES], skip=(0, 2, 5) if rank else (3, 5))


WORK = {"all": everything, "ddp": data_parallel, "fsdp": sharded, "skip": skipping, "apart": apart}


def run(kind, path, port):
    mp.spawn(worker, args=(kind, path, port), nprocs=2, join=True)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def alone(path):
    """One process with all batches."""
    model = model_of()
    with qprobe.attach(model, run=path, probes=[Moments(), Alone()], every=2) as session:
        steps(model, session, BATCHES)
    return found_in(path)


def compare(found, expected):
    """The first step: the average over processes then makes the updates of two another model.

    Gradients of outputs are those of the summed loss on both sides; those of weights are averaged
    over processes, half of that.
    """
    assert found.keys() == expected.keys()
    drawn = ("nvfp4", "int4", "token", "sampled", "zero_fraction", "looks")
    halved = ("mean", "std", "absmax", "m2")
    compared = 0
    for (column, step), value in expected.items():
        averaged = column.role == Role.GRAD_WEIGHT and column.key in halved
        if step == 1 and not averaged and not column.key.startswith(drawn):
            assert found[column, step] == pytest.approx(value, rel=1e-6, abs=1e-9), column
            compared += 1
        elif step == 1 and averaged and column.key != "m2":
            assert found[column, step] == pytest.approx(value / 2, rel=1e-6, abs=1e-9), column
    assert compared > 100


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Data parallel training, and one in which the second process never has a batch."""
    folder = tmp_path_factory.mktemp("together")
    run("ddp+skip+all", folder, free_port())
    return folder


def test_two_processes_record_what_one_would(together, tmp_path):
    compare(found_in(together / "ddp.qprobe"), alone(tmp_path / "one.qprobe"))


def test_a_process_without_batches_holds_nobody_up(together):
    found = found_in(together / "skip.qprobe")
    counts = {
        (column.site, step): value
        for (column, step), value in found.items()
        if column[1:] == ("input", "alone", "n")
    }
    assert counts == {(site, step): n for site, n in (("0", 24), ("2", 32)) for step in (1, 2, 3)}


def test_all_probes_of_two_processes_come_to_an_end(together):
    """Under a budget they agree on each look, whoever has a batch in it."""
    found = found_in(together / "all.qprobe")
    assert {column.probe for column, _ in found} >= {"moments", "histogram", "four_bit"}


def test_processes_meet_when_something_is_due_and_else_never(monkeypatch):
    """Of two processes: one states its step and share at a look, and none between looks."""
    met = []

    def gather_object(packed, received, dst):
        met.append("gather")
        received[:] = [packed, packed]

    def all_gather_object(said, mine):
        met.append("agree")
        said[:] = [mine, mine]

    monkeypatch.setattr(ranks, "_several", lambda: True)
    for name, answer in (("get_rank", 0), ("get_world_size", 2)):
        monkeypatch.setattr(dist, name, lambda answer=answer: answer)
    for name in ("barrier", "all_reduce", "broadcast", "all_gather", "gather"):
        monkeypatch.setattr(dist, name, lambda *_, name=name, **__: met.append(name))
    monkeypatch.setattr(dist, "gather_object", gather_object)
    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    model, meetings = model_of(), []
    with qprobe.attach(model, probes=[Moments(), Alone()], every=4) as session:
        for batch in (*BATCHES, *BATCHES):
            met.clear()
            model(batch).sum().backward()
            session.step(loss=1.0)
            meetings.append(list(met))
        met.clear()
    assert meetings == [["gather", "agree"], [], [], [], ["gather", "agree"], []]
    assert met == []


@pytest.mark.slow
def test_two_processes_with_shards_record_what_one_would(tmp_path):
    run("fsdp+apart", tmp_path, free_port())
    compare(found_in(tmp_path / "fsdp.qprobe"), alone(tmp_path / "one.qprobe"))


def test_one_process_is_rank_zero_of_one():
    assert (ranks.rank(), ranks.size(), ranks.agree(3, 0.5)) == (0, 1, 0.5)


def test_states_of_one_process_alone_are_kept():
    into = {"a": _Sum(1)}
    ranks.merge(into, {"a": _Sum(2), "b": _Sum(3)})
    assert {key: one.value for key, one in into.items()} == {"a": 3, "b": 3}


class _Sum:
    def __init__(self, value):
        self.value = value

    def merge(self, other):
        return _Sum(self.value + other.value)
