"""Who made the queries and keys of an attention, and a sample that is computed when asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qprobe.models import build
from qprobe.quant import convert
from qprobe.records.schema import Role
from qprobe.sites import Capture, Sampling, Site, discover, trace
from qprobe.sites.attending import ATTENDING, Drawn


class Inline(nn.Module):
    """Attention that a module computes by itself, from one packed projection or from two."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.qkv, self.q, self.k = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        if self.packed:
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k = (f(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for f in (self.q, self.k))
            v = k
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Attendeds:
    """Takes samples without computing them, and rebuilds queries and keys while they are there."""

    def __init__(self) -> None:
        self.seen: list[tuple[Site, Drawn]] = []
        self.errors: list[float] = []

    def __call__(self, site, tensor):
        raise AssertionError(f"logits were computed for {site}")

    def drawn(self, site, drawn):
        self.seen.append((site, drawn))
        attended = drawn.attended
        for call, part in zip(attended.projections, (attended.q, attended.k), strict=True):
            rows = call.rows(part, 1)
            made = F.linear(call.input, rows.of(call.weight), rows.of(call.bias))
            self.errors.append((made - part[:, 1]).abs().max().item())


def attending(model, example=None):
    found = trace(model, example) if example is not None else None
    sites = [*discover(model), *(found.sites if found else ())]
    return [site for site in sites if site.role in ATTENDING], found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_the_layers_that_made_queries_and_keys_are_known(packed, grad):
    model, x, seen = Inline(packed), torch.randn(3, 5, 8), Attendeds()
    sites, found = attending(model, x)
    with torch.set_grad_enabled(grad), Capture(model, sites, seen, trace=found):
        model(x)
    assert {site.role for site, _ in seen.seen} == ATTENDING
    assert max(seen.errors) < 1e-6


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_modules_of_ours_have_projections_too(name):
    model, seen = build(name, "tiny", image=32), Attendeds()
    with Capture(model, attending(model)[0], seen):
        model(torch.randn(2, 3, 32, 32))
    assert seen.seen
    assert max(seen.errors) < 1e-5


def test_the_recipe_of_the_projections_comes_along():
    model, x, seen = Inline(packed=True), torch.randn(3, 5, 8), Attendeds()
    convert(model, "nvfp4", layers="all")
    sites, found = attending(model, x)
    seen.drawn = lambda site, drawn: seen.seen.append((site, drawn))
    with Capture(model, sites, seen, trace=found):
        model(x)
    calls = seen.seen[0][1].attended.projections
    assert [call.setup for call in calls] == [model.qkv.setup] * 2


def test_calls_are_noted_while_armed_and_forgotten_with_the_pass():
    model, x = build("vit", "tiny", image=32), torch.randn(2, 3, 32, 32)
    sites, _ = attending(model)
    counts, alive = [], []
    with Capture(model, sites, lambda *_: None) as capture:
        calls = capture._attending._projections._calls
        last = model.blocks[-1].attn
        last.qkv.register_forward_hook(lambda *given: alive.append(given[-1]))
        last.product.register_forward_hook(lambda *_: counts.append(len(calls)))
        model(x)
        after = len(calls)
        capture.arm([])
        model(x)
    assert counts[0] > 0  # seen during the pass
    assert after == 0  # though the outputs are alive
    assert counts[1] == 0


def test_a_pass_that_fails_leaves_nothing():
    model, x = Inline(packed=True), torch.randn(3, 5, 8)
    sites, found = attending(model, x)
    with Capture(model, sites, lambda *_: None, trace=found) as capture:
        with pytest.raises(RuntimeError):
            model(torch.randn(3, 5, 7))
        assert len(capture._attending._projections._calls) == 0
    assert all(not module._forward_hooks for module in model.modules())


def test_outputs_and_gradients_keep_their_bits():
    model, x = build("vit", "tiny", image=32), torch.randn(2, 3, 32, 32)
    model.eval()

    def gradients():
        model.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters())]

    plain = gradients()
    with Capture(model, attending(model)[0], lambda *_: None):
        watched = gradients()
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one, other)


def test_a_sample_is_computed_once_and_only_when_asked_for():
    class Counting:
        asked = 0

        def logits(self, sampling, turn):
            self.asked += 1
            return torch.randn(1, 1, 2, 5)

    made_of = Counting()
    drawn = Drawn(made_of=made_of, sampling=Sampling(samples=1, queries=2), turn=1)
    assert made_of.asked == 0
    probabilities = drawn.tensor(Role.ATTN_PROBS)
    torch.testing.assert_close(probabilities, drawn.tensor(Role.ATTN_LOGITS).softmax(-1))
    assert probabilities.shape == (1, 1, 2, 5)
    assert made_of.asked == 1
    assert drawn.attended is None


def test_once_known_only_the_layers_that_count_are_noted():
    model, x, noted = build("vit", "tiny", image=32), torch.randn(2, 3, 32, 32), []
    with Capture(model, attending(model)[0], lambda *_: None) as capture:
        note = capture._attending._projections.note
        capture._attending._projections.note = lambda module, x, y: (
            noted.append(module),
            note(module, x, y),
        )
        for expected in (4 * ["qkv", "proj"], 4 * ["qkv"], 4 * ["qkv"]):
            noted.clear()
            model(x)
            names = {module: name for name, module in model.named_modules()}
            assert [names[module].rpartition(".")[2] for module in noted] == expected


def test_a_model_that_changes_its_mind_is_watched_again():
    model, x = Inline(packed=True), torch.randn(3, 5, 8)
    sites, found = attending(model, x)
    known = []
    seen = Attendeds()
    seen.drawn = lambda site, drawn: known.append(drawn.attended.projections is not None)
    with Capture(model, sites[:1], seen, trace=found):
        for packed in (True, True, False, False):
            model.packed = packed
            model(x)
    assert known == [True, True, False, True]


class Written(nn.Module):
    """Attention as three calls."""

    def __init__(self, between):
        super().__init__()
        self.qkv, self.between = nn.Linear(8, 24), between

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.between(q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize(
    ("between", "scale"),
    [
        (lambda scores: scores, 1.0),
        (lambda scores: scores * 0.5, 0.5),
        (lambda scores: 3 * (scores / 4) - 1, 0.75),
        (lambda scores: torch.add(scores.float().contiguous(), torch.ones(5)), 1.0),
        (lambda scores: scores.mul_(0.5).masked_fill_(torch.eye(5, dtype=torch.bool), -1e9), 0.5),
        (lambda scores: torch.where(torch.eye(5) > 0, -torch.inf, scores.div(2)), 0.5),
        (lambda scores: scores * torch.tensor(0.5), None),
        (lambda scores: scores.clamp(max=1.0), None),
        (lambda scores: 1 - scores, None),
        (lambda scores: 1 / scores, None),
    ],
)
def test_queries_and_keys_of_attention_that_is_written_out(between, scale):
    """Logits are those the model made, and a sample's are its product and what was added to it."""
    model, x, seen = Written(between), torch.randn(3, 5, 8), []
    found = trace(model, x)
    (attention,) = found.attentions
    assert attention.scale == scale
    sites = [site for site in found.sites if site.role is Role.ATTN_LOGITS]

    class Receiver:
        def __call__(self, site, tensor):
            raise AssertionError(site)

        def drawn(self, site, drawn):
            seen.append((drawn.attended, drawn.tensor(site.role)))

    with Capture(model, sites, Receiver(), trace=found, sampling=Sampling(heads=None)):
        model(x)
    ((attended, logits),) = seen
    q, k, _ = model.qkv(x).view(3, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    lowest = torch.finfo(torch.float32).min / 2
    assert torch.allclose(logits.clamp(min=lowest), between(q @ k.mT).clamp(min=lowest), atol=1e-6)
    if scale is None:
        assert attended is None
        return
    assert torch.equal(attended.q, q)
    assert torch.equal(attended.k, k)
    sample = attended.sample(Sampling(samples=2, heads=1, queries=2), 1)
    again = attended.logits(Sampling(samples=2, heads=1, queries=2), 1)
    summed = sample.products(sample.q, sample.k) + sample.mask
    assert torch.allclose(summed, again, atol=1e-5)
    assert attended.projections is not None
