"""The operation through which compiled code hands its tensors over."""

import pytest
import torch

from qprobe.sites import op

OBSERVE, ATTEND = torch.ops.qprobe.observe, torch.ops.qprobe.attend


class Noting:
    def __init__(self):
        self.tensors, self.attentions = [], []

    def seen(self, slot, tensor, *, call, recording):
        assert call == 4
        self.tensors.append((slot, tensor.clone(), recording))

    def attended(self, slots, attended, *, recording):
        self.attentions.append((tuple(slots), attended, recording))


@pytest.fixture
def watcher():
    return Noting()


def test_a_tensor_reaches_the_watcher_of_its_number(watcher):
    other, x = Noting(), torch.arange(3.0)
    number, token = op.register(watcher), torch.zeros(1)
    assert op.register(other) == number + 1
    OBSERVE(x, token, number, 7, 4, True)
    OBSERVE(x + 1, token, number, 8, 4, False)
    assert [(slot, t.tolist(), r) for slot, t, r in watcher.tensors] == [
        (7, [0.0, 1.0, 2.0], True),
        (8, [1.0, 2.0, 3.0], False),
    ]
    assert other.tensors == []
    assert token.item() == 0.0  # only said to be written


@pytest.mark.parametrize("mask", [None, torch.ones(4, 4, dtype=torch.bool)])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_what_logits_are_made_of_arrives_as_it_was_given(watcher, mask, scale):
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8)
    number = op.register(watcher)
    ATTEND(q, k, mask, scale, True, torch.zeros(1), number, [3, 5], True)
    ((slots, attended, recording),) = watcher.attentions
    assert (slots, recording, attended.scale, attended.causal) == ((3, 5), True, scale, True)
    assert torch.equal(attended.q, q)
    assert torch.equal(attended.k, k)
    assert attended.mask is None if mask is None else torch.equal(attended.mask, mask)


def test_a_watcher_that_is_gone_is_not_called_and_not_kept():
    watcher = Noting()
    number, kept = op.register(watcher), watcher.tensors
    del watcher
    OBSERVE(torch.ones(2), torch.zeros(1), number, 0, 4, True)
    assert kept == []


def test_tracing_looks_at_nothing(watcher):
    number = op.register(watcher)
    meta = torch.empty(2, 3, device="meta")
    OBSERVE(meta, torch.empty(1, device="meta"), number, 0, 4, True)
    with torch._subclasses.FakeTensorMode():
        OBSERVE(torch.empty(2, 3), torch.empty(1), number, 0, 4, True)
    assert watcher.tensors == []


def test_a_compiled_graph_keeps_every_call_in_its_order(watcher):
    """Nobody reads a result of it, and yet it is neither dropped nor moved."""
    number, token = op.register(watcher), torch.zeros(1)

    def model(x):
        OBSERVE(x, token, number, 0, 4, torch.is_grad_enabled())
        y = x * 2
        OBSERVE(y, token, number, 1, 4, torch.is_grad_enabled())
        OBSERVE(y, token, number, 1, 4, torch.is_grad_enabled())
        return y + 1

    torch._dynamo.reset()
    run = torch.compile(model, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        assert run(torch.ones(2)).tolist() == [3.0, 3.0]
    assert [(slot, t.tolist()) for slot, t, _ in watcher.tensors] == 2 * [
        (0, [1.0, 1.0]),
        (1, [2.0, 2.0]),
        (1, [2.0, 2.0]),
    ]
    torch._dynamo.reset()


def test_the_schema_says_what_it_changes():
    torch.library.opcheck(
        OBSERVE,
        (torch.randn(3), torch.zeros(1), 10**9, 0, 0, False),
        test_utils=("test_schema", "test_faketensor"),
    )
