import pytest
import torch
import torch.nn.functional as F

from qprobe.errors import InputError
from qprobe.sites import Attended, Sampling
from qprobe.sites.attention import Materialized

ALL = Sampling(samples=None, heads=None, queries=None)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.randn(2, 1, 5, 7)},
        {"attn_mask": torch.rand(5, 7) > 0.2},
        {"attn_mask": torch.randn(2, 4, 5, 7)},
    ],
)
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_probabilities_reproduce_fused_attention(options, kv_heads):
    torch.manual_seed(0)
    q = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, kv_heads, 7, 8, dtype=torch.float64).unbind(0)
    options = {
        name: x.double() if torch.is_tensor(x) and x.is_floating_point() else x
        for name, x in options.items()
    }
    fused = F.scaled_dot_product_attention(q, k, v, **options, enable_gqa=kv_heads == 2)
    attended = Attended(
        q=q,
        k=k,
        mask=options.get("attn_mask"),
        scale=options.get("scale"),
        causal=options.get("is_causal", False),
    )
    p = attended.logits(ALL).softmax(-1)
    assert p.dtype is torch.float64
    torch.testing.assert_close(p @ v.repeat_interleave(4 // kv_heads, 1), fused)


@pytest.mark.parametrize("shape", [(5, 8), (3, 5, 8), (2, 3, 5, 8), (2, 2, 3, 5, 8)])
def test_any_number_of_leading_axes(shape):
    q = torch.randn(shape)
    logits = Attended(q=q, k=q).logits(ALL)
    assert logits.dim() == 4
    torch.testing.assert_close(logits.flatten(), (q @ q.mT * 8**-0.5).flatten())


def test_a_sample_is_part_of_the_whole_and_turns_reach_everything():
    q, k = torch.randn(6, 3, 10, 4), torch.randn(6, 3, 7, 4)
    mask = torch.randn(10, 7)
    attended, sampling = Attended(q=q, k=k, mask=mask), Sampling(samples=2, heads=1, queries=4)
    whole = attended.logits(ALL)
    rows = whole.reshape(-1, 7)
    seen = set()
    for turn in range(60):
        sample = attended.logits(sampling, turn)
        assert sample.shape == (2, 1, 4, 7)
        same = Materialized(whole).logits(sampling, turn)
        torch.testing.assert_close(sample, same)
        distance = (rows[:, None] - sample.reshape(1, -1, 7)).abs().amax(-1)
        assert distance.amin(0).max() < 1e-5
        seen |= set(distance.argmin(0).tolist())
    assert len({row // 10 % 3 for row in seen}) == 3
    assert {row % 10 for row in seen} == set(range(10))
    assert {row // 30 for row in seen} == set(range(6))


def test_bfloat16_is_multiplied_in_float32_also_under_autocast():
    q = torch.randn(1, 1, 4, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        logits = Attended(q=q, k=q).logits(ALL)
    assert torch.equal(logits, q.float() @ q.float().mT * 0.125)


def test_the_most_negative_number_is_a_mask_too():
    logits = torch.tensor([[[[1.0, torch.finfo(torch.float32).min]]]])
    assert Materialized(logits).logits(ALL).tolist() == [[[[1.0, -torch.inf]]]]


@pytest.mark.parametrize("name", ["samples", "heads", "queries"])
def test_an_empty_sample_is_refused(name):
    with pytest.raises(InputError, match=f"{name} of a sampling is 0"):
        Sampling(**{name: 0})
