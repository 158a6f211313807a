"""Which passes are followed: not those of the replicas of data parallelism."""

import threading
import warnings

import pytest
import torch
from torch import nn

import qprobe
from qprobe.sites.passes import Passes, is_replica


def replicas_of(model, count):
    """What ``torch.nn.parallel.replicate`` makes, on one device: shallow copies with its hooks."""
    modules = list(model.modules())
    copies = [[one._replicate_for_data_parallel() for one in modules] for _ in range(count)]
    for made in copies:
        for module, copy in zip(modules, made, strict=True):
            for name, child in module._modules.items():
                copy._modules[name] = made[modules.index(child)]
            for name, parameter in module._parameters.items():
                setattr(copy, name, parameter.clone())
    return [made[0] for made in copies]


def in_parallel(model, x):
    """One pass of two replicas in two threads, as ``nn.DataParallel`` runs them."""
    replicas, outputs = replicas_of(model, 2), [None, None]

    def run(number):
        outputs[number] = replicas[number](x[3 * number :][:3])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return torch.cat(outputs)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(6, 4)


def bits(model, out):
    out.sum().backward()
    return [out.detach(), *(p.grad for p in model.parameters())]


def test_replicas_run_as_they_would_and_are_not_watched_which_is_said_once():
    plain, x = small()
    expected = bits(plain, in_parallel(plain, x))
    model, _ = small()
    with qprobe.attach(model, probes=["moments"], every=1) as session:
        with pytest.warns(UserWarning, match=r"nn\.DataParallel .* not watched") as said:
            seen = bits(model, in_parallel(model, x))
        assert len(said) == 1
        assert all(map(torch.equal, expected, seen))
        session.step()
        found = {r.role for r in session.records() if r.probe == "moments"}
        assert found == {"weight"}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            in_parallel(model, x)
            model(x).sum().backward()
        session.observe_next()
        model(x).sum().backward()
        session.step()
    counts = {(r.site, r.role): r.value for r in session.records() if r.key == "n" and r.step == 2}
    assert counts["0", "input"] == 24.0


def test_a_thread_that_ran_a_replica_follows_the_model_again():
    passes = Passes()
    with pytest.warns(UserWarning, match="not watched"):
        assert not passes.enter(recording=True, replica=True)
    assert not passes.here
    assert not passes.enter(recording=True, replica=True)
    passes.leave()
    passes.leave()
    assert passes.here
    assert passes.enter(recording=True)
    assert passes.outermost


def test_a_replica_is_told_by_what_made_it():
    model, _ = small()
    assert [is_replica(one) for one in (model, *replicas_of(model, 1))] == [False, True]
