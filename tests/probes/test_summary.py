"""A summary, in each of its implementations, against scipy, NumPy and the quantizers themselves."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from qprobe.errors import InputError
from qprobe.native import Sampled
from qprobe.probes.summary import ALL, Summary, TokenSample
from qprobe.quant import INT4, NVFP4, Granularity, QuantSpec, fake_quantize
from qprobe.stats.histogram import MagnitudeHistogram

DTYPES = [torch.float32, torch.bfloat16]
EVERY = TokenSample(every=1)
pytestmark = pytest.mark.usefixtures("implementation")


def summarise(x: torch.Tensor, axis: int = -1, **how: object) -> Summary:
    s = Summary(x.shape[axis])
    s.observe(x, axis, **how)
    return s


def tokens_of(x: torch.Tensor, axis: int) -> np.ndarray:
    return x.double().movedim(axis, -1).reshape(-1, x.shape[axis]).numpy()


def worst(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(found.numpy() / expected - 1).max())


LAYOUTS = {
    "tokens": ((700, 48), -1),
    "odd": ((333, 77), -1),
    "few channels": ((500, 3), -1),
    "wide": ((90, 2050), -1),
    "sequence": ((4, 49, 32), -1),
    "image": ((3, 24, 15, 13), 1),
    "small image": ((20, 40, 2, 2), 1),
    "volume": ((2, 8, 7, 6, 5), 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", [0.0, 10.0, 100.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_channel_moments_are_those_of_scipy(layout, mean, dtype, generator):
    shape, axis = LAYOUTS[layout]
    x = (torch.randn(shape, generator=generator) ** 3 / 4 + mean).to(dtype)
    wide = tokens_of(x, axis)
    m = summarise(x, axis, measure=Sampled.NOTHING).moments()
    assert m.n.tolist() == [len(wide)] * wide.shape[1]
    assert worst(m.kurtosis(), stats.kurtosis(wide, 0, fisher=False)) < 1e-5
    assert worst(m.m2 / m.n, wide.var(0)) < 1e-5
    np.testing.assert_allclose(m.mean, wide.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(m.skewness(), stats.skew(wide, 0), rtol=5e-5, atol=5e-5)
    np.testing.assert_array_equal(m.absmax, np.abs(wide).max(0))


@pytest.mark.parametrize(
    ("mean", "dtype", "bound"),
    [
        *((mean, dtype, 1e-5) for mean in (0.0, 100.0) for dtype in DTYPES),
        (1e4, torch.float32, 1e-4),
    ],
)
def test_a_tensors_kurtosis_holds_the_promised_bound(mean, dtype, bound, generator):
    x = (torch.randn(4096, 64, generator=generator) + mean).to(dtype)
    expected = stats.kurtosis(tokens_of(x, -1).ravel(), fisher=False)
    found = summarise(x, measure=Sampled.NOTHING).moments().total().kurtosis().item()
    assert found == pytest.approx(expected, rel=bound)


@pytest.mark.parametrize("mean", [1e4, 1e5])
def test_a_channels_kurtosis_survives_a_mean_that_float32_hardly_resolves(mean, generator):
    x = torch.randn(1000, 64, generator=generator).exp() + mean
    m = summarise(x, measure=Sampled.NOTHING).moments()
    assert worst(m.kurtosis(), stats.kurtosis(tokens_of(x, -1), 0, fisher=False)) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1e-6, 1e6, 1e30])
def test_the_magnitude_of_a_tensor_does_not_matter(magnitude, dtype, generator):
    x = (torch.randn(300, 48, generator=generator) * magnitude).to(dtype)
    s = summarise(x, sample=EVERY)
    expected = stats.kurtosis(tokens_of(x, -1), 0, fisher=False)
    assert worst(s.moments().kurtosis(), expected) < 1e-5
    found = s.scalars()
    assert 15 < found["nvfp4_sqnr_db"] < 25
    assert 2.0 < found["token_kurtosis_median"] < 3.5


def test_channels_and_tokens_far_smaller_than_the_rest_keep_their_shape(generator):
    x = torch.randn(256, 64, generator=generator)
    x[:, 5] *= 1e-25
    x[7] *= 1e-24
    s = summarise(x)
    expected = stats.kurtosis(tokens_of(x, -1), 0, fisher=False)
    assert worst(s.moments().kurtosis(), expected) < 1e-5
    assert s.scalars()["tokens_constant"] == 0


@pytest.mark.parametrize("shape", [(3152, 20), (2, 20, 40, 40)])
def test_tokens_that_mislead_about_the_mean_change_nothing(shape, generator):
    axis = 1 if len(shape) > 2 else -1
    x = torch.randn(shape, generator=generator)
    tokens = x.movedim(axis, -1)[0].view(-1, 20) if axis == 1 else x
    tokens[[(2 * k + 1) * len(tokens) // 32 for k in range(16)]] += 1e3
    x = tokens.T.reshape(1, 20, 40, 40).contiguous() if axis == 1 else tokens
    m = summarise(x, axis, measure=Sampled.NOTHING).moments()
    wide = tokens_of(x, axis)
    assert worst(m.kurtosis(), stats.kurtosis(wide, 0, fisher=False)) < 1e-5
    assert worst(m.m2 / m.n, wide.var(0)) < 1e-5


def test_empty_tokens_mislead_about_the_magnitude_only_at_first(generator):
    x = torch.randn(3152, 20, generator=generator) * 1e15
    x[[(2 * k + 1) * len(x) // 32 for k in range(16)]] = 0
    m = summarise(x, measure=Sampled.NOTHING).moments()
    assert worst(m.kurtosis(), stats.kurtosis(tokens_of(x, -1), 0, fisher=False)) < 1e-5


@pytest.mark.parametrize(("shape", "axis"), [((700, 48), -1), ((3, 24, 15, 13), 1)])
def test_tokens_may_lie_anywhere(shape, axis, generator):
    x = torch.randn(shape, generator=generator)
    away = x.select(axis, 0).unsqueeze(axis)
    x = x + 1e3 * away
    wide = tokens_of(x, axis)
    found = summarise(x, axis, measure=Sampled.NOTHING).scalars()
    kurtosis = stats.kurtosis(wide, 1, fisher=False)
    assert found["token_kurtosis_median"] == pytest.approx(np.median(kurtosis), rel=0.12)
    assert found["token_kurtosis_p90"] == pytest.approx(np.quantile(kurtosis, 0.9), rel=0.12)
    assert found["tokens_constant"] == 0


def test_parts_of_very_different_magnitude_keep_their_tokens(generator):
    x = torch.randn(900, 48, generator=generator)
    x[:300] *= 1e-15
    x[600:] *= 1e15
    s = summarise(x)
    assert worst(s.moments().kurtosis(), stats.kurtosis(tokens_of(x, -1), 0, fisher=False)) < 1e-5
    expected = np.median(stats.kurtosis(tokens_of(x, -1), 1, fisher=False))
    assert s.scalars()["token_kurtosis_median"] == pytest.approx(expected, rel=0.12)
    assert s.scalars()["tokens_constant"] == 0


@pytest.mark.parametrize("channels", [20, 21, 23, 27])
def test_small_tokens_beside_others_that_have_a_mean_keep_their_shape(channels, generator):
    x = torch.randn(400, channels, generator=generator)
    x[2::5] += 10  # where the kernel looks for the mean
    small = torch.arange(400) % 5 != 2
    x[small] *= 1e-8
    found = summarise(x).scalars()
    expected = np.median(stats.kurtosis(tokens_of(x, -1), 1, fisher=False))
    assert found["token_kurtosis_median"] == pytest.approx(expected, rel=0.12)
    assert found["tokens_constant"] == 0


def test_empty_tokens_beside_others_have_no_kurtosis(generator):
    x = torch.randn(400, 32, generator=generator) + 10
    x[::3] = 0
    found = summarise(x).scalars()
    assert (found["tokens_zero"], found["tokens_constant"]) == (134, 134)


def test_a_tensor_like_the_last_one_is_read_as_if_it_were_the_first(generator):
    x = torch.randn(2, 100, 24, generator=generator)
    kinds = [x, 2 * x, x.bfloat16(), x.bfloat16() * 3, x[:, ::2], x[:, ::2] + 1, x.mT, x.mT * 2]
    together = Summary(24)
    apart = together.fresh()
    for number, kind in enumerate(kinds):
        axis = 1 if kind.shape[1] == 24 else -1
        how = {"sample": TokenSample(draw=number), "measure": ~Sampled.INT4 if number > 2 else ALL}
        together.observe(kind, axis, **how)
        one = apart.fresh()
        one._last = None
        one.observe(kind, axis, **how)
        apart = apart.merge(one)
    for name in ("nonfinite", "magnitudes", "tokens", "reference"):
        assert torch.equal(getattr(together.fields, name), getattr(apart.fields, name)), name
    torch.testing.assert_close(together.fields.energy, apart.fields.energy)
    torch.testing.assert_close(together.fields.channels, apart.fields.channels, rtol=1e-6, atol=0)


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.integers(1, 299), max_size=4),
    mean=st.sampled_from([0.0, 100.0]),
    bfloat16=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_split_gives_the_same_summary(cuts, mean, bfloat16, seed):
    x = torch.randn(300, 20, generator=torch.Generator().manual_seed(seed)) + mean
    x = x.bfloat16() if bfloat16 else x
    whole, merged = Summary(20), Summary(20)
    for s in (whole, merged):
        s.fields.reference[0] = 200.0  # above all, so that splits scale alike
    whole.observe(x, sample=EVERY)
    bounds = [0, *sorted(set(cuts)), 300]
    for low, high in pairwise(bounds):
        part = merged.fresh()
        part.observe(x[low:high], sample=EVERY)
        merged = merged.merge(part)
    for name in ("nonfinite", "magnitudes", "counts"):
        assert torch.equal(getattr(merged.fields, name), getattr(whole.fields, name))
    assert merged.fields.tokens.sum() == whole.fields.tokens.sum()
    torch.testing.assert_close(merged.fields.energy, whole.fields.energy, rtol=1e-5, atol=0.0)
    one, other = merged.moments(), whole.moments()
    assert torch.equal(one.n, other.n)
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(one.m2, other.m2, rtol=1e-5, atol=0.0)
    # Both against the truth, at twice the worst of 60,000 channels (9e-6: one rounds in float32).
    truth = stats.kurtosis(x.double().numpy(), 0, fisher=False)
    for found in (one, other):
        assert worst(found.kurtosis(), truth) < 2e-5


@pytest.mark.parametrize("layout", ["tokens", "odd", "image"])
def test_token_statistics_are_those_of_numpy(layout, generator):
    shape, axis = LAYOUTS[layout]
    x = torch.randn(shape, generator=generator) ** 3
    wide = tokens_of(x, axis)
    found = summarise(x, axis, measure=Sampled.NOTHING).scalars()
    expected = {
        "token_mean_square": (wide**2).mean(1),
        "token_absmax": np.abs(wide).max(1),
        "token_kurtosis": stats.kurtosis(wide, 1, fisher=False),
    }
    assert found["tokens"] == len(wide)
    for name, values in expected.items():
        for cut, q in (("median", 0.5), ("p90", 0.9)):
            assert found[f"{name}_{cut}"] == pytest.approx(np.quantile(values, q), rel=0.12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [64, 40])
def test_errors_of_all_tokens_are_those_of_the_quantizers(dtype, channels, generator):
    x = torch.randn(96, channels, generator=generator).to(dtype)
    x[3] = 0
    s = summarise(x, sample=EVERY)
    wide = x.float()
    specs = (QuantSpec(format=NVFP4), QuantSpec(format=INT4, granularity=Granularity.TOKEN))
    nvfp4, int4 = (fake_quantize(wide, spec) for spec in specs)
    energy = [((y - wide).double() ** 2).sum() for y in (nvfp4, int4)]
    signal = (wide.double() ** 2).sum()
    torch.testing.assert_close(s.fields.energy, torch.stack([signal, *energy]), rtol=1e-6, atol=0.0)
    elements, there, lost, _, lost_int4 = s.fields.counts.tolist()
    assert (elements, there) == (x.numel(), int((x != 0).sum()))
    assert lost == int(((nvfp4 == 0) & (x != 0)).sum())
    assert lost_int4 == int(((int4 == 0) & (x != 0)).sum())


def test_what_grows_past_the_magnitude_seen_before_saturates(generator):
    x = torch.randn(64, 32, generator=generator)
    s = summarise(x, sample=EVERY)
    grown = s.fresh()
    grown.observe(4 * x, sample=EVERY)
    assert grown.scalars()["nvfp4_saturation"] > 0.01
    assert grown.scalars()["nvfp4_sqnr_db"] < s.scalars()["nvfp4_sqnr_db"]
    later = grown.fresh()
    later.observe(4 * x, sample=EVERY)
    torch.testing.assert_close(later.scalars()["nvfp4_sqnr_db"], s.scalars()["nvfp4_sqnr_db"])


def test_one_token_in_eight_says_what_all_say(generator):
    x = torch.randn(3136, 64, generator=generator) * torch.rand(3136, 1, generator=generator)
    everything = {k: v.item() for k, v in summarise(x, sample=EVERY).scalars().items()}
    for draw in range(5):
        part = summarise(x, sample=TokenSample(draw=draw)).scalars()
        assert part["sampled"] == pytest.approx(x.numel() / 9, rel=0.01)
        assert part["nvfp4_sqnr_db"] == pytest.approx(everything["nvfp4_sqnr_db"], abs=0.15)
        assert part["int4_sqnr_db"] == pytest.approx(everything["int4_sqnr_db"], abs=0.15)
        assert part["nvfp4_underflow"] == pytest.approx(everything["nvfp4_underflow"], abs=0.005)
        assert part["kurtosis"] == everything["kurtosis"]


@pytest.mark.parametrize(("shape", "axis"), [((50, 4), -1), ((4, 50, 4), -1), ((4, 6, 5, 7), 1)])
def test_exactly_the_tokens_of_the_sample_are_counted(shape, axis):
    places = torch.arange(math.prod(shape) // shape[axis]).view(
        [n for a, n in enumerate(shape) if a != axis % len(shape)]
    )
    x = torch.exp2((places % 60 - 30).float()).unsqueeze(axis).expand(shape).contiguous()
    sample = TokenSample(every=5, draw=2)
    period = places.numel() // (shape[0] if len(shape) > 2 else 1)
    chosen = sample.of(places.numel(), period)
    expected = MagnitudeHistogram.of(tokens_of_sample(x, axis)[chosen.offset :: chosen.stride])
    assert torch.equal(summarise(x, axis, sample=sample).fields.magnitudes, expected.counts)


def tokens_of_sample(x: torch.Tensor, axis: int) -> torch.Tensor:
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])


def test_the_stride_shares_no_factor_with_the_tokens_of_an_example():
    for period in (196, 197, 2520, 64 * 64):
        assert math.gcd(TokenSample(draw=5).of(16 * period, period).stride, period) == 1
    assert TokenSample().of(63, 63).stride == 1
    with pytest.raises(InputError, match="one token in 0"):
        TokenSample(every=0)


@pytest.mark.parametrize("axis", [-1, 1])
def test_nan_and_infinity_are_counted_and_kept_out_of_the_rest(axis, generator):
    shape = (200, 20) if axis == -1 else (2, 20, 10, 10)
    x = torch.randn(shape, generator=generator)
    rows = x.movedim(axis, -1)
    rows[(3,) if axis == -1 else (1, 2, 3)][5] = float("nan")
    rows[(5,) if axis == -1 else (1, 2, 5)][5] = float("nan")
    rows[(9,) if axis == -1 else (1, 2, 4)][5] = -float("inf")
    s = summarise(x, axis, sample=EVERY)
    wide = tokens_of(x, axis)
    wide[~np.isfinite(wide)] = np.nan
    expected = stats.kurtosis(wide, 0, fisher=False, nan_policy="omit")
    assert worst(s.moments().kurtosis(), np.asarray(expected)) < 1e-6
    assert s.moments().n.tolist() == [197.0 if c == 5 else 200.0 for c in range(20)]
    found = s.scalars()
    assert (found["nan"], found["infinite"], found["tokens_nonfinite"]) == (2, 1, 3)
    assert found["sampled"] == 197 * 20
    assert (s.magnitudes().nan, s.magnitudes().infinite) == (2, 1)
    assert not any(v.isnan() for v in found.values())
    assert 15 < found["nvfp4_sqnr_db"] < 25
    s.observe(x.nan_to_num(0.0, 0.0, 0.0), axis)  # channels of unequal counts merge too
    assert s.moments().n.tolist() == [397.0 if c == 5 else 400.0 for c in range(20)]


def test_all_zero_is_no_data_and_not_nan():
    found = summarise(torch.zeros(100, 16)).scalars()
    assert (found["n"], found["tokens_zero"], found["tokens_constant"]) == (1600, 100, 100)
    assert (found["mean"], found["std"], found["zero_fraction"]) == (0, 0, 1)
    assert not {"kurtosis", "nvfp4_sqnr_db", "int4_sqnr_db", "token_kurtosis_median"} & set(found)
    assert not any(v.isnan() for v in found.values())
    assert set(Summary(3).scalars()) == {
        *("n", "nan", "infinite", "tokens", "tokens_zero", "tokens_constant"),
        *("tokens_nonfinite", "sampled"),
    }


def test_a_constant_channel_has_no_kurtosis_whatever_its_value(generator):
    x = torch.randn(300, 17, generator=generator)
    x[:, 4] = 1 / 3
    m = summarise(x).moments()
    assert (m.m2[4], m.mean[4]) == (0, np.float32(1 / 3))
    assert m.spread.sum() == 16


def test_a_dense_layout_changes_nothing_but_the_order_of_sums(generator):
    x = torch.randn(2, 24, 9, 9, generator=generator)
    one = summarise(x, 1, sample=EVERY)
    for same in (x.to(memory_format=torch.channels_last), x.transpose(2, 3), x[:, :, ::1]):
        other = summarise(same, 1, sample=EVERY)
        for name in ("magnitudes", "counts", "nonfinite"):
            assert torch.equal(getattr(one.fields, name), getattr(other.fields, name))
        torch.testing.assert_close(one.moments().m4, other.moments().m4, rtol=1e-5, atol=0.0)
    every_other = torch.randn(100, 48, generator=generator)[:, ::2]
    torch.testing.assert_close(
        summarise(every_other).buffer, summarise(every_other.contiguous()).buffer, equal_nan=True
    )


def test_half_precision_is_widened_and_nothing_is_learned_from_an_empty_tensor(generator):
    x = torch.randn(64, 8, generator=generator).half()
    assert torch.equal(summarise(x).buffer, summarise(x.float()).buffer)
    s = summarise(torch.empty(0, 8))
    assert s.scalars()["n"] == 0


@pytest.mark.parametrize(
    ("x", "axis", "message"),
    [
        (torch.zeros(4, 8, dtype=torch.float64), -1, "or float16, got torch.float64"),
        (torch.zeros(4, 9), -1, r"has 8 channels, axis -1 of .* \[4, 9\] has 9"),
        (torch.zeros(4, 8), 2, r"axis 2 is not one of a tensor of shape \[4, 8\]"),
        (torch.zeros(4, 8, device="meta"), -1, "on meta, its summary on cpu"),
    ],
)
def test_what_cannot_be_summarised_is_refused_by_name(x, axis, message):
    with pytest.raises(InputError, match=message):
        Summary(8).observe(x, axis)


def test_summaries_that_do_not_fit_are_refused_by_name():
    with pytest.raises(InputError, match="8 and 9 channels"):
        Summary(8).merge(Summary(9))
    with pytest.raises(InputError, match="at least one channel, got 0"):
        Summary(0)
    with pytest.raises(InputError, match=r"has 962 float64, got \[5\]"):
        Summary(8, buffer=torch.zeros(5, dtype=torch.float64))


def test_a_summary_is_one_small_buffer_however_much_it_has_seen(generator):
    s = Summary(768)
    for _ in range(3):
        s.observe(torch.randn(100, 768, generator=generator))
    assert s.buffer.nbytes <= 64 * 1024
    held = {v.untyped_storage().data_ptr() for v in s.arrays().values()}
    assert held == {s.buffer.untyped_storage().data_ptr()}


def test_a_copy_is_of_its_own(generator):
    x = torch.randn(80, 16, generator=generator)
    s = summarise(x)
    before = s.buffer.clone()
    other = copy.deepcopy(s)
    other.observe(x)
    assert torch.equal(s.buffer.view(torch.int64), before.view(torch.int64))
    assert other.scalars()["n"] == 2 * x.numel()


def test_a_tensor_that_carries_gradients_is_left_alone(generator):
    x = torch.randn(80, 16, generator=generator, requires_grad=True)
    y = x * 2
    before = y.clone()
    s = summarise(y)
    y.sum().backward()
    assert torch.equal(y, before)
    assert not s.buffer.requires_grad
    assert x.grad is not None
