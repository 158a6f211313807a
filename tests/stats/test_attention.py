import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import mean_squared_error

from qprobe.errors import InputError
from qprobe.stats import logit_error, probabilities, softmax_error, softmax_levels
from qprobe.stats.attention import visible_keys

BOOLEAN, ADDITIVE, FINFO, SWIN = "boolean", "additive", "finfo", "swin"


def masks(kind, visible):
    if kind == BOOLEAN:
        return visible
    hidden = {ADDITIVE: -math.inf, FINFO: torch.finfo(torch.float32).min, SWIN: -100.0}[kind]
    return torch.zeros(visible.shape).masked_fill(~visible, hidden)


def by_row(x, y, visible):
    """Each statistic of a head, row by row in NumPy: what the docstrings say, the slow way."""
    found = {"signal": [], "noise": [], "change": [], "variation": [], "flips": []}
    for row, other, seen in zip(
        x.reshape(-1, x.shape[-1]), y.reshape(-1, x.shape[-1]), visible, strict=True
    ):
        if not seen.any():
            continue
        a, b = row[seen], other[seen]
        found["signal"].append(a - a.mean())
        found["noise"].append((b - a) - (b - a).mean())
        p, q = softmax(a), softmax(b)
        found["change"].append(entropy(q) - entropy(p))
        found["variation"].append(np.abs(p - q).sum() / 2)
        found["flips"].append(p.argmax() != q.argmax())
    signal, noise = np.concatenate(found["signal"]), np.concatenate(found["noise"])
    free = len(signal) - len(found["signal"])
    return {
        "snr_db": 10 * math.log10((signal @ signal) / (noise @ noise)),
        "error_nats": math.sqrt((noise @ noise) / free),
        "entropy_change_nats": np.mean(found["change"]),
        "total_variation": np.mean(found["variation"]),
        "flip_rate": np.mean(found["flips"]),
    }


@pytest.mark.parametrize("kind", [BOOLEAN, ADDITIVE, FINFO, SWIN])
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_every_head_is_what_its_rows_say(kind, spread, generator):
    x = spread * torch.randn(3, 2, 6, 7, generator=generator, dtype=torch.float64) + 40.0
    y = x + 0.5 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    visible = torch.rand(3, 1, 6, 7, generator=generator) < 0.6
    visible[0, 0, 2] = False
    mask = masks(kind, visible)
    found = dict(logit_error(x, y, mask).scalars())
    found |= softmax_error(probabilities(x, mask), probabilities(y, mask), mask).scalars()
    for head in range(2):
        seen = visible[:, 0].reshape(-1, 7).numpy()
        expected = by_row(x[:, head].numpy(), y[:, head].numpy(), seen)
        for key, value in expected.items():
            assert found[f"head{head}.{key}"].item() == pytest.approx(value, rel=1e-9), key


def test_snr_and_error_of_one_row_by_hand():
    """Centred logits ±1 and error ±0.1: SNR 100, error √(0.02 / (2 − 1))."""
    found = logit_error(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[13.1, 10.9]]])).scalars()
    assert found["snr_db"].item() == pytest.approx(20.0, abs=1e-4)
    assert found["error_nats"].item() == pytest.approx(math.sqrt(0.02), rel=1e-5)
    assert found["logit_std"].item() == pytest.approx(math.sqrt(2.0))


def test_the_noise_is_sklearns_mean_squared_error_of_centred_rows(generator):
    x, y = torch.randn(2, 1, 1, 50, 9, generator=generator, dtype=torch.float64)
    centred = [(z - z.mean(-1, keepdim=True)).reshape(-1).numpy() for z in (x, y)]
    expected = math.sqrt(mean_squared_error(*centred) * 9 / 8)
    assert logit_error(x, y).scalars()["error_nats"].item() == pytest.approx(expected)


def test_the_error_is_unbiased_for_independent_noise(generator):
    x = torch.randn(1, 1, 20000, 3, generator=generator)
    y = x + 0.25 * torch.randn(x.shape, generator=generator)
    # 40,000 degrees of freedom: the standard error of the variance is 0.7 %.
    assert logit_error(x, y).scalars()["error_nats"].item() == pytest.approx(0.25, rel=0.015)


@pytest.mark.parametrize("offset", [1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_what_is_added_to_a_whole_row_is_nothing(offset, dtype):
    x = torch.tensor([[[1.0, 2.0, 4.0]]], dtype=dtype)
    y = (x.double() + offset).to(dtype)
    found = logit_error(x, y)
    rounding = (y.double() - x.double() - offset).norm()
    assert found.noise[0].item() <= rounding.square().item() + 1e-20


def test_uniform_rows_have_no_signal_and_no_snr():
    x = torch.full((1, 1, 3, 7), 0.1, dtype=torch.float64)
    assert "snr_db" not in logit_error(x, x).scalars()
    assert logit_error(x, x).scalars()["error_nats"].item() == 0.0
    assert logit_error(x, x + torch.arange(7)).scalars()["snr_db"].item() == -math.inf


def test_without_error_the_snr_is_infinite(generator):
    x = torch.randn(1, 2, 3, 4, generator=generator)
    assert logit_error(x, x).scalars()["snr_db"].item() == math.inf


def test_fully_hidden_rows_are_missing_not_nan():
    x = torch.zeros(1, 2, 2, 2)
    mask = torch.tensor([[True, True], [False, False]]).expand(1, 2, 2, 2).clone()
    mask[0, 1] = False  # all of head 1
    p = probabilities(x, mask)
    assert p.sum(-1).tolist() == [[[1.0, 0.0], [0.0, 0.0]]]
    for state in (
        logit_error(x, x + 1, mask),
        softmax_error(p, p, mask),
        softmax_levels(p, p, mask),
    ):
        scalars = state.scalars()
        assert not any(key.startswith("head1.") for key in scalars)
        assert not any(math.isnan(value) for value in scalars.values())
    assert softmax_error(p, p, mask).rows.tolist() == [1, 0]
    assert math.isnan(logit_error(x, x, mask).error_nats()[1])


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf, 3e38])
def test_hidden_entries_are_never_looked_at(rubbish, generator):
    x = torch.randn(1, 1, 2, 3, generator=generator)
    y = x + 0.1
    y[..., 0] = 1.0
    mask = torch.tensor([True, True, False])
    clean = logit_error(x, y, mask).scalars()
    x[..., 2], y[..., 2] = rubbish, rubbish
    soiled = logit_error(x, y, mask).scalars()
    assert {k: v.item() for k, v in soiled.items()} == {k: v.item() for k, v in clean.items()}
    assert not probabilities(x, mask).isnan().any()


def test_logits_that_are_minus_infinity_are_hidden():
    x = torch.tensor([[[1.0, 2.0, -math.inf]]])
    found = logit_error(x, torch.tensor([[[1.0, 2.5, -math.inf]]]))
    assert found.entries.item() == 2
    assert found.scalars()["error_nats"].item() == pytest.approx(math.sqrt(0.125))


def test_nan_in_visible_logits_is_seen():
    x = torch.tensor([[[1.0, math.nan]]])
    found = logit_error(x, x).scalars()
    assert math.isnan(found["snr_db"])
    assert math.isnan(found["error_nats"])


def test_peaked_and_uniform_attention_by_hand():
    peaked, uniform = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), torch.full((1, 1, 4), 0.25)
    found = softmax_error(peaked, uniform).scalars()
    assert found["entropy_change_nats"].item() == pytest.approx(math.log(4))
    assert found["total_variation"].item() == 0.75
    assert found["flip_rate"].item() == 0.0  # the largest is still among the largest
    back = softmax_error(uniform, peaked).scalars()
    assert back["entropy_change_nats"].item() == pytest.approx(-math.log(4))
    assert "flip_rate" not in back  # four keys tie: there is no argmax to flip


def test_ties_are_left_out_of_the_flip_rate_only():
    p = torch.tensor([[[0.5, 0.5, 0.0], [0.6, 0.3, 0.1], [0.6, 0.3, 0.1]]])
    q = torch.tensor([[[0.0, 0.0, 1.0], [0.3, 0.6, 0.1], [0.6, 0.3, 0.1]]])
    state = softmax_error(p, q)
    assert (state.rows.item(), state.decided.item(), state.flipped.item()) == (3, 2, 1)


def test_levels_of_two_values_among_visible_keys():
    p = torch.tensor([[[0.25, 0.25, 0.5, 0.9]]])
    mask = torch.tensor([True, True, True, False])
    found = softmax_levels(p, torch.full_like(p, 0.3), mask).scalars()
    assert found["levels"].item() == pytest.approx(math.exp(entropy([2, 1])))
    assert found["levels_ratio"].item() == pytest.approx(1 / math.exp(entropy([2, 1])))
    assert found["n"].item() == 3


def test_levels_are_numpys_histogram(generator):
    x = 3 * torch.randn(2, 2, 30, 40, generator=generator)
    p, q = x.softmax(-1).double(), (x * 2).round().div(2).softmax(-1).double()
    state = softmax_levels(p, q)
    keep = (p >= 2.0**-20) & (q >= 2.0**-20)
    edges = 2.0 ** ((np.arange(1282) - 1280) / 64)
    for head in range(2):
        mine = keep[:, head]
        for field, values in (("reference", p), ("quantized", q)):
            expected, _ = np.histogram(values[:, head][mine].numpy(), bins=edges)
            assert getattr(state, field)[:, head].tolist() == expected.tolist()


def test_vanished_counts_what_fell_below_the_range():
    p = torch.tensor([[[0.5, 0.25, 0.25]]])
    q = torch.tensor([[[0.5, 0.0, 2.0**-21]]])
    assert softmax_levels(p, q).scalars()["vanished"].item() == pytest.approx(2 / 3)


def test_probabilities_are_scipys_softmax_with_the_bias_added(generator):
    x, bias = torch.randn(2, 1, 2, 3, 4, generator=generator, dtype=torch.float64)
    assert np.allclose(probabilities(x, bias), softmax((x + bias).numpy(), axis=-1), rtol=1e-14)


def test_a_bias_is_no_part_of_the_signal(generator):
    x, y = torch.randn(2, 1, 2, 3, 4, generator=generator)
    bias = 5 * torch.randn(2, 3, 4, generator=generator)
    with_bias, without = logit_error(x, y, bias).scalars(), logit_error(x, y).scalars()
    assert {k: v.item() for k, v in with_bias.items()} == {k: v.item() for k, v in without.items()}


@pytest.mark.parametrize("measure", [logit_error, softmax_error, softmax_levels])
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)])
def test_without_entries_all_is_missing(measure, shape):
    x = torch.zeros(shape)
    assert dict(measure(x, x).scalars()) == {"n": torch.tensor(0)}


def test_many_samples_are_taken_in_pieces(generator, monkeypatch):
    x, y = torch.randn(2, 7, 2, 3, 4, generator=generator)
    whole = logit_error(x, y).scalars()
    monkeypatch.setattr("qprobe.stats.attention._PIECE", 50)
    pieces = logit_error(x, y).scalars()
    assert pieces["error_nats"].item() == pytest.approx(whole["error_nats"].item(), rel=1e-14)


def test_what_cannot_be_attention_is_refused():
    with pytest.raises(InputError, match=r"\[\.\.\., heads, queries, keys\], got \(2, 2\)"):
        logit_error(torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(InputError, match=r"mask of \(3,\) does not broadcast"):
        visible_keys(torch.zeros(3), torch.zeros(1, 2, 2))
    with pytest.raises(InputError, match=r"got torch.int64"):
        visible_keys(torch.zeros(2, dtype=torch.int64), torch.zeros(1, 2, 2))


@pytest.mark.parametrize("measure", [logit_error, softmax_error])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 4, 1), (0, 3, 5, 7), (2, 3, 5, 0)])
def test_what_is_complete_is_measured_alike(measure, shape):
    torch.manual_seed(0)
    before, after = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    if measure is softmax_error:
        before, after = before.softmax(-1), after.softmax(-1)
    if before.numel():
        before[..., 0, :] = 0.25  # a constant row, and one whose largest is not one
    masked, complete = (measure(before, after, complete=flag) for flag in (False, True))
    assert masked.scalars().keys() == complete.scalars().keys()
    for key, value in masked.scalars().items():
        torch.testing.assert_close(complete.scalars()[key], value, rtol=1e-12, atol=1e-12)
