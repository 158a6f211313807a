"""Models that nobody here wrote: MONAI and Hugging Face, from their configurations."""

from collections import Counter

import pytest
import torch
from sites.foreign import (
    bert,
    encoder_decoder,
    gpt2,
    llama,
    made,
    mamba,
    qwen3,
    segformer,
    swin,
    swin_unetr,
    t5,
    unet,
    vit,
    whisper,
)
from sites.zoo import hooks_of, loss_of
from torch.utils._pytree import tree_leaves

from qprobe.records.schema import Role
from qprobe.sites import Capture, Sampling, aliases, discover, trace
from qprobe.sites.dataflow import tensors_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # theirs are not ours to fix
]
# Attentions and fusions, counted by hand in the sources.
CASES = [
    (llama, "sdpa", 2, {"add": 4, "gate": 2}),
    (llama, "eager", 2, {"add": 4, "gate": 2}),
    (gpt2, "sdpa", 2, {"add": 4}),
    (gpt2, "eager", 2, {"add": 4}),
    (vit, "sdpa", 2, {"add": 4}),
    (vit, "eager", 2, {"add": 4}),
    (segformer, "sdpa", 4, {"add": 8, "cat": 1}),
    (segformer, "eager", 4, {"add": 8, "cat": 1}),
    (swin, "sdpa", 4, {"add": 8}),
    (swin, "eager", 4, {"add": 8}),
    (t5, "sdpa", 6, {"add": 10}),
    (t5, "eager", 6, {"add": 10}),
    (whisper, "sdpa", 6, {"add": 10}),
    (whisper, "eager", 6, {"add": 10}),
    (qwen3, "sdpa", 2, {"add": 4, "gate": 2}),
    (bert, "eager", 2, {"add": 4}),
    (encoder_decoder, "none", 6, {"add": 8}),
    (unet, "none", 0, {"add": 5, "cat": 2}),
    (swin_unetr, "none", 4, {"add": 18, "cat": 5}),
]
FOREIGN = pytest.mark.parametrize(("make", "attention", "attentions", "fusions"), CASES)


def train(model, batch):
    torch.manual_seed(7)
    output = model(**batch)
    values = list(tensors_in(output))
    sum(loss_of(value) for value in values if value.requires_grad).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [t.detach().clone() for t in (*values, *gradients, *model.buffers())]


#: T5 shares the weight of an embedding that it never calls; Whisper's positions are not learned.
UNUSED = {"shared", "model.encoder.embed_positions"}


@FOREIGN
def test_a_foreign_model_is_traced_and_left_alone(make, attention, attentions, fusions):
    model, batch = made(make, attention)
    model.train()
    before = [t.clone() for t in (*model.parameters(), *model.buffers())]
    rng = torch.random.get_rng_state()
    found = trace(model, **batch)
    assert len(found.attentions) == attentions
    assert Counter(fusion.kind for fusion in found.fusions) == fusions
    assert all(map(torch.equal, before, (*model.parameters(), *model.buffers())))
    assert torch.equal(rng, torch.random.get_rng_state())
    twin, _ = made(make, attention)
    twin(**batch)  # some libraries set hooks of their own in the first pass
    assert hooks_of(model) == hooks_of(twin)
    paths = dict(model.named_modules())
    assert all(one.call.path in paths for one in found.fusions)


@FOREIGN
def test_a_foreign_model_trains_with_the_same_bits(make, attention, attentions, fusions):
    model, batch = made(make, attention)
    plain = train(model.train(), batch)
    hooks = hooks_of(model)
    model, batch = made(make, attention)
    found = trace(model.train(), **batch)
    sites = [*discover(model), *found.sites]
    seen = {}
    with Capture(
        model, sites, lambda site, tensor: seen.update({site: tensor.clone()}), trace=found
    ) as capture:
        watched = train(model, batch)
        capture.read_weights()
    assert len(plain) == len(watched)
    assert all(map(torch.equal, plain, watched))
    assert hooks_of(model) == hooks
    assert {site.path for site in capture.missed} <= UNUSED
    for site, tensor in seen.items():
        if site.role is Role.ATTN_PROBS:
            torch.testing.assert_close(tensor.sum(-1), torch.ones(tensor.shape[:-1]))


@pytest.mark.parametrize("make", [llama, gpt2, vit, segformer, swin, t5, whisper, qwen3, bert])
def test_fused_and_plain_attention_have_the_same_logits(make):
    everything = Sampling(samples=None, heads=None, queries=None)
    logits = []
    for attention in ("sdpa", "eager"):
        model, batch = made(make, attention)
        found = trace(model.eval(), **batch)
        sites = [site for site in found.sites if site.role is Role.ATTN_PROBS]
        seen = []
        with (
            torch.no_grad(),
            Capture(
                model,
                sites,
                lambda _, t, seen=seen: seen.append(t),
                trace=found,
                sampling=everything,
            ),
        ):
            model(**batch)
        logits.append(seen)
    assert len(logits[0]) == len(logits[1]) > 0
    for fused, plain in zip(*logits, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


def test_tied_embeddings_are_known():
    model, _ = made(gpt2, "sdpa")
    assert aliases(model) == {"transformer.wte.weight": ("lm_head.weight",)}


def test_transposed_linears_are_read_as_linears():
    model, batch = made(gpt2, "sdpa")
    seen = {}
    sites = [site for site in discover(model) if site.path == "transformer.h.0.mlp.c_fc"]
    with Capture(model, sites, lambda site, tensor: seen.update({site.role: tensor.clone()})) as c:
        train(model, batch)
        c.read_weights()
    y = seen[Role.INPUT] @ seen[Role.WEIGHT].mT + model.transformer.h[0].mlp.c_fc.bias
    torch.testing.assert_close(y, seen[Role.OUTPUT])
    grad = seen[Role.GRAD_OUTPUT].flatten(0, 1).mT @ seen[Role.INPUT].flatten(0, 1)
    torch.testing.assert_close(seen[Role.GRAD_WEIGHT], grad)


def test_outputs_of_the_library_are_searched():
    model, batch = made(vit, "sdpa")
    assert len(tree_leaves(list(tensors_in(model(**batch))))) == 1


def test_sites_of_a_scan_do_not_grow_with_its_tokens():
    counted = {}
    for tokens in (32, 96):
        model, _ = made(mamba, "eager")
        found = trace(model, torch.randint(3, 64, (1, tokens)))
        counted[tokens] = len(found.sites)
        mixer = "backbone.layers.1.mixer"
        assert found.repeated.keys() >= {f"{mixer}/mul", f"{mixer}/add"}
    assert counted[32] == counted[96]
