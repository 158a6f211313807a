import math

import pytest
import torch
from attended import PATHS, Call, attention_errors, calls, prediction_change, staircase

from qprobe import attach
from qprobe.models import build
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.quant import convert
from qprobe.sites import Sampling

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MASKS = (IMAGES[:, :1] > 1).float()


def swin(recipe, **options):
    model = build("swin", "tiny", image=32, patch=4, **options).eval()
    # The initial logits are almost zero; larger weights make them logits.
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.mul_(8)
    convert(model, recipe)
    return model


def test_every_attention_is_seen_once_and_no_hook_is_left():
    model = swin("nvfp4")
    with calls(model) as seen:
        model(IMAGES)
    assert [call.layer for call in seen] == [block.attn for block in model.blocks]
    assert [call.bias is None for call in seen] == [False] * 4
    assert seen[0].q.shape == (2 * 4, 2, 16, 16)  # windows of two images, heads, tokens, channels
    model(IMAGES)
    assert len(seen) == 4


def test_high_precision_has_no_error_and_no_staircase():
    found = attention_errors(swin("bf16"), IMAGES)["projection"]
    assert found["error_nats"] == found["worst_error_nats"] == found["total_variation"] == 0
    assert "snr_db" not in found  # infinitely many decibels are missing, not a number
    change = prediction_change(swin("bf16"), IMAGES, MASKS)
    assert change["levels_ratio"] == 1
    assert change["distinct"] == change["distinct_reference"]


def test_the_projection_path_is_what_the_probe_of_the_package_says():
    model = swin("nvfp4")
    mine = attention_errors(model, IMAGES)["projection"]
    everything = Sampling(samples=99, heads=99, queries=999)
    probe = AttentionLogits(sampling=everything)
    with attach(model, probes=[probe], every=1, evaluation=True) as session, torch.no_grad():
        model(IMAGES)
        session.step()
        records = session.records()
    snr = [one.value for one in records if one.key == "snr_proj_db"]
    nats = [one.value for one in records if one.key == "error_proj_nats"]
    assert len(snr) == 4
    assert mine["snr_db"] == pytest.approx(sum(snr) / 4, abs=1e-3)
    assert mine["worst_error_nats"] == pytest.approx(max(nats), rel=1e-4)


def test_an_offset_that_softmax_ignores_is_noise_to_the_products_only():
    model = swin("bf16")
    with calls(model) as seen, torch.no_grad():
        model(IMAGES)
    call = seen[0]
    offset = torch.zeros(16)
    offset[3] = 20 * float(call.k.std())
    moved = Call(layer=call.layer, x=call.x, q=call.q, k=call.k + offset, bias=call.bias)

    def error(one, path):
        before, after = one.pair(path)
        centred = (after - before) - (after - before).mean(-1, keepdim=True)
        return float(centred.std())

    assert error(moved, "products") > 2 * error(call, "products")


def test_worst_layers_are_at_the_right_end():
    found = attention_errors(swin("nvfp4"), IMAGES)
    for path in PATHS:
        assert found[path]["worst_snr_db"] <= found[path]["snr_db"]
        assert found[path]["worst_error_nats"] >= found[path]["error_nats"]


def test_steps_of_a_staircase():
    logits = torch.tensor([-1.0, 0.0, 0.0, 0.0, 2.0])
    found = staircase(logits, torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]))
    assert found["distinct"] == 3
    assert found["largest_step"] == pytest.approx(2 / 3)
    # Precision 1 up to a recall of 1/3, then 3/4.
    assert found["auprc"] == pytest.approx(1 / 3 + 2 / 3 * 3 / 4)


def test_coarse_predictions_have_fewer_levels(monkeypatch):
    model = swin("nvfp4")
    coarse = model.register_forward_hook(
        lambda m, _, y: y.round() if hasattr(m.blocks[0].attn.qkv, "setup") else y
    )
    change = prediction_change(model, IMAGES, MASKS)
    coarse.remove()
    assert change["levels_ratio"] < 0.1
    assert change["distinct"] < 10 < change["distinct_reference"]
    assert not math.isnan(change["auprc"])
