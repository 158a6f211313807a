"""Attentions that are written out in many ways: queries, keys and logits as computed by hand."""

import pytest
import torch
import torch.nn.functional as F
from sites.zoo import hooks_of
from torch import nn

from qprobe.records.schema import Role
from qprobe.sites import Capture, Sampling, trace
from qprobe.sites.calls import Call
from qprobe.sites.scores import Probabilities, Scores, carried, heads_folded

B, N, H, D = 3, 5, 2, 4
EVERY = Sampling(samples=None, heads=None, queries=None)


class Written(nn.Module):
    """One linear layer for q, k and v, and an attention that a function computes."""

    def __init__(self, attend):
        super().__init__()
        self.qkv, self.attend = nn.Linear(8, 24), attend

    def parts(self, x):
        """q, k and v, ``[samples, heads, tokens, head_dim]``."""
        return self.qkv(x).view(B, N, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x):
        return self.attend(*self.parts(x))


def einsum(q, k, v):
    p = torch.einsum("bhid,bhjd->bhij", q, k).mul(0.5).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", p, v)


def tokens_first(q, k, v):
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    p = F.softmax(torch.einsum("bnhd,bmhd->bhnm", q * 0.5, k), dim=-1)
    return torch.einsum("bhnm,bmhd->bnhd", p, v)


def heads_last(q, k, v):
    p = torch.softmax(torch.einsum("bhid,bhjd->bijh", q, k) / 2, 2)
    return torch.einsum("bijh,bhjd->bhid", p, v)


def keys_in_rows(q, k, v):
    p = (k @ q.mT * 0.5).softmax(-2)
    return p.mT @ v


def turned_before(q, k, v):
    return (k @ q.mT).transpose(-1, -2).mul(0.5).softmax(-1) @ v


def values_first(q, k, v):
    p = (q @ k.mT * 0.5).softmax(-1)
    return v.mT @ p.permute(0, 1, 3, 2)


def folded(q, k, v):
    q, k, v = (one.reshape(B * H, N, D) for one in (q, k, v))
    return torch.bmm(torch.bmm(q * 0.5, k.transpose(1, 2)).softmax(-1), v)


def folded_and_back(q, k, v):
    q, k, v = (one.flatten(0, 1) for one in (q, k, v))
    scores = torch.bmm(q, k.mT).view(B, H, N, N) * 0.5 + torch.zeros(N, N)
    return torch.bmm(scores.softmax(-1).view(B * H, N, N), v)


def folded_and_added(q, k, v):
    q, k, v = (one.reshape(B * H, N, D) for one in (q, k, v))
    scores = torch.baddbmm(torch.empty(B * H, N, N), q, k.mT, beta=0, alpha=0.5)
    return scores.softmax(-1) @ v


def tokens_before_samples(q, k, v):
    """As ``F.multi_head_attention_forward`` folds: heads beside samples, behind the tokens."""

    def fold(one):
        joined = one.permute(2, 0, 1, 3).reshape(N, B, H * D).contiguous()
        return joined.view(N, B * H, D).transpose(0, 1)

    return torch.bmm(torch.bmm(fold(q * 0.5), fold(k).mT).softmax(-1), fold(v))


def positions_of_rows_and_columns(q, k, v):
    """As the encoder of Segment Anything: three folded at once, two axes of keys for a while."""
    q, k, v = torch.stack([q * 0.5, k, v]).reshape(3, B * H, N, D).unbind(0)
    scores = (q @ k.transpose(-2, -1)).view(B * H, N, 1, N, 1) + torch.zeros(N, 1)
    return scores.view(B * H, N, N).softmax(-1) @ v


WAYS = (
    *(einsum, tokens_first, heads_last, keys_in_rows, turned_before, values_first),
    *(folded, folded_and_back, folded_and_added, tokens_before_samples),
    positions_of_rows_and_columns,
)
#: Queries and keys are views of what the linear layer returned, here.
VIEWS = WAYS[:6]


class Seen:
    def __init__(self):
        self.tensors, self.drawn_ = {}, []

    def __call__(self, site, tensor):
        self.tensors[site.role, site.index] = tensor.clone()

    def drawn(self, site, drawn):
        self.tensors[site.role, 0] = drawn.tensor(site.role)
        self.drawn_.append(drawn.attended)


def watched(model, x):
    """What every site of its attention got."""
    found, seen = trace(model, x), Seen()
    with Capture(model, found.sites, seen, trace=found, sampling=EVERY) as capture:
        model(x)
    assert capture.missed == ()
    assert hooks_of(model) == 0
    return found, seen


@pytest.mark.parametrize("attend", WAYS)
def test_queries_keys_values_and_logits_are_those_of_the_formula(attend):
    torch.manual_seed(0)
    model, x = Written(attend), torch.randn(B, N, 8)
    plain = model(x)
    found, seen = watched(model, x)
    (attention,) = found.attentions
    q, k, v = model.parts(x)
    logits = q @ k.mT * 0.5
    torch.testing.assert_close(model(x), plain, rtol=0, atol=0)
    torch.testing.assert_close(seen.tensors[Role.ATTN_LOGITS, 0], logits)
    torch.testing.assert_close(seen.tensors[Role.ATTN_PROBS, 0], logits.softmax(-1))
    attended = seen.drawn_[0]
    torch.testing.assert_close(attended.q * attended.scale, q * 0.5)
    torch.testing.assert_close(attended.k, k)
    assert (attended.projections is not None) is (attend in VIEWS)
    for index, expected in enumerate((q * 0.5 / attention.scale, k, v)):
        given = seen.tensors[Role.INPUT, index]
        assert given.shape in (expected.shape, expected.flatten(0, 1).shape)
        torch.testing.assert_close(given.reshape(expected.shape), expected)
    sample = attended.sample(Sampling(samples=2, heads=1, queries=3), turn=1)
    again = attended.logits(Sampling(samples=2, heads=1, queries=3), turn=1)
    torch.testing.assert_close(sample.products(sample.q, sample.k) + sample.mask, again)
    assert sample.heads == (1,)


@pytest.mark.parametrize(
    ("attend", "count"),
    [
        (lambda q, k, v: torch.einsum("bhid,bhjd->bhij", q, k).softmax(1) @ v, 0),  # over heads
        (lambda q, k, v: torch.einsum("bhid,bhjd->bhij", q, k).softmax(0) @ v, 0),  # over samples
        (lambda q, k, v: (q @ k.mT).softmax(-1).flatten(1) @ v.new_ones(H * N * N, 2), 0),
        (lambda q, k, v: torch.einsum("bhid,bhjd->bhij", q, k).tanh().softmax(-1) @ v, 1),
        (lambda q, k, v: (q @ k.mT).view(B, H, N, N, 1).softmax(-2).squeeze(-1) @ v, 0),
    ],
)
def test_what_is_no_attention_is_not_taken_for_one(attend, count):
    assert len(trace(Written(attend), torch.randn(B, N, 8)).attentions) == count


@pytest.mark.parametrize("written", [False, True])
def test_queries_that_were_written_to_are_not_what_the_layer_returned(written):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            q, k = self.q(x).view(B, N, H, D), self.k(x).view(B, N, H, D)
            q = q.mul_(0.5) if written else q
            q, k = q.transpose(1, 2), k.transpose(1, 2)
            return (q @ k.mT).softmax(-1) @ k

    _, seen = watched(InPlace(), torch.randn(B, N, 8))
    assert (seen.drawn_[0].projections is None) is written


def test_keys_that_all_samples_share():
    torch.manual_seed(0)

    class Latents(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.kv = nn.Linear(8, 8), nn.Linear(8, 8)
            self.learnt = nn.Parameter(torch.randn(1, H, 6, D))

        def forward(self, x):
            q = self.q(x).view(B, N, H, D).transpose(1, 2)
            k = self.learnt * x.mean()  # of the batch, one for all
            return (q @ k.mT).softmax(-1) @ k

    model, x = Latents(), torch.randn(B, N, 8)
    _, seen = watched(model, x)
    q = model.q(x).view(B, N, H, D).transpose(1, 2)
    logits = q @ (model.learnt * x.mean()).mT
    torch.testing.assert_close(seen.tensors[Role.ATTN_LOGITS, 0], logits)
    sampled = seen.drawn_[0].sample(Sampling(samples=2, heads=1, queries=2), turn=2)
    torch.testing.assert_close(
        sampled.products(sampled.q, sampled.k) + sampled.mask,
        seen.drawn_[0].logits(Sampling(samples=2, heads=1, queries=2), turn=2),
    )


def test_axes_are_followed_by_strides_where_sizes_say_nothing():
    scores = Scores(product=Call("", "matmul", 0), contraction=None, scale=1.0)
    square = torch.randn(2, 4, 4)
    assert carried(scores, square, square.mT).flipped
    assert carried(scores, square, square * 2) == scores
    assert not carried(carried(scores, square, square.mT), square.mT, square.mT.mT).flipped
    assert carried(scores, square, square.flatten(1)) is None
    sized = Scores(product=scores.product, contraction=None, scale=1.0, sizes=(4, 4))
    spread = carried(sized, square, square.view(2, 4, 2, 2))
    assert spread.spread
    assert not carried(spread, square.view(2, 4, 2, 2), square).spread
    assert carried(spread, square.view(2, 4, 2, 2), square.view(2, 4, 2, 2).mT) is None
    assert carried(scores, torch.randn(2, 4, 5), torch.randn(2, 5, 4)) is None
    column = torch.randn(2, 4, 1)
    assert carried(scores, column, column.view(2, 4, 1)) == scores
    known = Probabilities(scores=scores, softmax=scores.product, layout=None, axis=-1)
    assert carried(known, square, square.mT).axis == -2
    assert carried(Probabilities(**_fields(known), axis=-3), square, square.mT) is None


def _fields(known):
    return {"scores": known.scores, "softmax": known.softmax, "layout": known.layout}


def test_what_is_no_fold_of_heads():
    assert heads_folded(torch.ones(2, 3, 5, 4), torch.ones(2, 3, 20)) is None
    assert heads_folded(torch.ones(2, 3, 8), torch.ones(2, 3, 8)) is None
    assert heads_folded(torch.ones(2, 3, 8), torch.ones(2, 6, 8)) is None
