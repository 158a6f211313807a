"""What a session promises, on models of other libraries."""

import pytest
import torch
from plain_probes import Alone, Windowed, under_a_recipe
from sites import foreign
from sites.zoo import hooks_of, loss_of

import qprobe
from qprobe.errors import InputError
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.probes.base import PROBES
from qprobe.probes.softmax_levels import SoftmaxLevels
from qprobe.sites import Sampling, discover, trace
from qprobe.sites.dataflow import tensors_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # theirs are not ours to fix
]
MAKERS = (
    *(foreign.llama, foreign.gpt2, foreign.vit, foreign.segformer, foreign.swin),
    *(foreign.unet, foreign.swin_unetr, foreign.rt_detr),
    *(foreign.t5, foreign.whisper, foreign.qwen3, foreign.bert, foreign.encoder_decoder),
)
BY_NAME = {probe.name: under_a_recipe(probe) for probe in (Alone(), Windowed(), *PROBES)}


def train(model, batch, session=None):
    torch.manual_seed(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    kept = []
    for _ in range(2):
        optimizer.zero_grad()
        values = [value for value in tensors_in(model(**batch)) if value.requires_grad]
        sum(loss_of(value) for value in values).backward()
        kept += [t.detach().clone() for t in values]
        kept += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        if session is not None:
            session.step()
    return [*kept, *(b.clone() for b in model.buffers()), torch.random.get_rng_state()]


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", MAKERS)
def test_a_foreign_model_keeps_its_bits(make, attention, name):
    model, batch = foreign.made(make, attention)
    plain = train(model.train(), batch)
    hooks = hooks_of(model)
    model, batch = foreign.made(make, attention)
    sites = [*discover(model.train()), *trace(model, **batch).sites]
    if not any(BY_NAME[name].selects(site) for site in sites):
        pytest.skip("selects nothing here")
    options = {"probes": [BY_NAME[name]], "schedule": {name: 1}, "example": batch}
    with qprobe.attach(model, **options) as session:
        watched = train(model, batch, session)
    assert len(plain) == len(watched)
    assert all(map(torch.equal, plain, watched))
    assert hooks_of(model) == hooks
    assert any(record.probe == name for record in session.records())


@pytest.mark.parametrize(
    "make",
    [
        *(foreign.llama, foreign.gpt2, foreign.vit, foreign.segformer, foreign.swin),
        *(foreign.t5, foreign.whisper, foreign.qwen3, foreign.bert),
    ],
)
def test_attention_that_a_library_writes_out_has_the_errors_of_the_fused_one(make):
    everything = Sampling(samples=None, heads=None, queries=None)
    found = []
    for attention in ("sdpa", "eager"):
        model, batch = foreign.made(make, attention)
        probes = [AttentionLogits("nvfp4", everything), SoftmaxLevels("nvfp4", everything)]
        with qprobe.attach(model.eval(), probes=probes, example=batch) as session:
            train_once(model, batch)
            session.step()
        records = [r for r in session.records() if r.probe in BY_NAME]
        numbered = {(r.probe, r.site.rpartition("/")[0], r.key): r.value for r in records}
        found.append(numbered)
    fused, written = found
    assert {key for _, _, key in fused} >= {"snr_qk_db", "error_qk_nats", "flip_rate"}
    assert written.keys() == fused.keys()
    for key, value in written.items():
        assert value == pytest.approx(fused[key], rel=1e-3, abs=1e-4), key


def train_once(model, batch):
    values = [value for value in tensors_in(model(**batch)) if value.requires_grad]
    sum(loss_of(value) for value in values).backward()


@pytest.fixture
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """A backend that counts what is compiled and what is called; explain() and the counters of
    breaks each leave out some."""

    def __init__(self):
        self.compiled = self.called = 0

    def __call__(self, graph, _):
        self.compiled += 1

        def call(*args):
            self.called += 1
            return graph(*args)

        return call


def ran(make, *, training, watched, compiled=True):
    """Three steps, of which the first and the last are looked at."""
    torch._dynamo.reset()
    model, batch = foreign.made(make, "sdpa")
    model.train(training)
    graphs, kept, records = Graphs(), [], []
    probes = [Alone(), BY_NAME["moments"]]
    session = qprobe.attach(model, probes=probes, every=2, evaluation=True) if watched else None
    run = torch.compile(model, backend=graphs) if compiled else model
    torch.manual_seed(7)
    for _ in range(3):
        model.zero_grad()
        with torch.set_grad_enabled(training):
            out = [one for one in tensors_in(run(**batch)) if one.is_floating_point()]
        if training:
            sum(loss_of(one) for one in out if one.requires_grad).backward()
        kept += [one.detach() for one in out]
        kept += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        if session is not None:
            session.step()
    if session is not None:
        session.close()
        records = [r for r in session.records() if r.probe not in ("session", "training")]
    return kept, (graphs.compiled, graphs.called), {(r.step, *r.column): r.value for r in records}


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        *(foreign.bert, foreign.llama, foreign.gpt2, foreign.qwen3, foreign.t5, foreign.whisper),
        foreign.bart,
    ],
)
def test_attached_before_compiling_no_graph_is_added(make, training):
    """Decoders keep keys and values in objects that they make, here as they do by default."""
    plain, expected, _ = ran(make, training=training, watched=False)
    kept, graphs, found = ran(make, training=training, watched=True)
    assert graphs == expected  # no break, and due or not: nothing is compiled again
    assert len(kept) == len(plain)
    assert all(map(torch.equal, kept, plain))
    _, _, eager = ran(make, training=training, watched=True, compiled=False)
    assert {step for step, *_ in found} == {1, 3}
    assert found.keys() == eager.keys()
    for key, value in eager.items():
        assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("make", [foreign.bert, foreign.llama])
def test_attached_after_compiling_it_is_refused(make):
    model, batch = foreign.made(make, "sdpa")
    torch.compile(model, backend="eager")(**batch)
    with pytest.raises(InputError, match=r"was compiled by an earlier call"):
        qprobe.attach(model, probes=["moments"])


@pytest.mark.parametrize("make", [foreign.llama, foreign.t5, foreign.whisper])
def test_what_a_model_generates_is_left_alone_and_counts_as_nothing(make):
    model, batch = foreign.made(make, "sdpa")
    given = {name: value for name, value in batch.items() if name != "labels"}
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    plain = model.eval().generate(**given, **options)
    with qprobe.attach(model, example=batch, every=1) as session:
        assert torch.equal(model.generate(**given, **options), plain)
        session.step()
    seen = {record.role for record in session.records() if record.probe != "session"}
    assert seen <= {"weight", "grad_weight"}
