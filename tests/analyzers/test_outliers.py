"""Outliers from literal records."""

import pytest

from qprobe.analyzers.outliers import CHANNELS, OUTPUTS, RANGE, TOKENS, Outliers
from qprobe.records.schema import Cause, Record, Role, Severity


def of(site="fc", noise=0.1, **sizes):
    """Records of a layer: sizes of its largest channel, token and weight, ways by their noise."""
    without = {"without_channels": noise / 5, "without_tokens": noise / 4}
    other = sizes.pop("ways", {"smoothed": noise / 2, "x_high": noise / 3})
    ways = {"intended": noise, **without, **other}
    sizes = {"channel": 1.0, "token": 1.0, "weight": 1.0, **sizes}
    values = [
        ("input", "moments", "channel_std_max", sizes["channel"] * 3.0),
        ("input", "moments", "channel_std_median", 3.0),
        ("input", "moments", "token_mean_square_max", sizes["token"] ** 2 * 5.0),
        ("input", "moments", "token_mean_square_median", 5.0),
        ("input", "moments", "channel_absmax_max", sizes.get("largest", sizes["channel"]) * 2.0),
        ("input", "moments", "channel_absmax_median", 2.0),
        ("weight", "moments", "channel_absmax_max", sizes["weight"] * 0.2),
        ("weight", "moments", "channel_absmax_median", 0.2),
        ("weight", "moments", "channel_std_max", sizes["weight"] * 0.1),
        ("weight", "moments", "channel_std_median", 0.1),
        ("input", "moments", "n", 640.0),
        ("weight", "moments", "n", 64.0),
        *(("grad_output", "output_error", f"{way}.noise_share", v) for way, v in ways.items()),
    ]
    return [Record("", 1, site, role, probe, key, value) for role, probe, key, value in values]


def found(**sizes):
    return Outliers().analyze(of(**sizes))


def test_an_even_layer_needs_nothing():
    assert found() == []


@pytest.mark.parametrize(
    ("sizes", "cause", "role", "unit", "n"),
    [
        ({"channel": 20.0}, Cause.CHANNEL_OUTLIER, Role.INPUT, CHANNELS, 640),
        ({"token": 20.0}, Cause.SPATIAL_OUTLIER, Role.INPUT, TOKENS, 640),
        ({"weight": 20.0}, Cause.CHANNEL_OUTLIER, Role.WEIGHT, CHANNELS, 64),
        ({"channel": 20.0, "token": 10.0}, Cause.CHANNEL_OUTLIER, Role.INPUT, CHANNELS, 640),
        ({"channel": 20.0, "token": 30.0}, Cause.SPATIAL_OUTLIER, Role.INPUT, TOKENS, 640),
    ],
)
def test_the_larger_one_is_the_outlier(sizes, cause, role, unit, n):
    (one,) = found(**sizes)
    assert (one.cause, one.roles, one.unit, one.n) == (cause, (role,), unit, n)
    assert one.effect == pytest.approx(max(sizes.values()))
    assert one.severity is Severity.WARN


def test_a_channel_that_varies_more_and_is_no_larger_is_no_outlier():
    assert found(channel=30.0, largest=3.0) == []


def test_an_outlier_is_told_where_the_layer_would_do_better_without_it():
    others = [one for site in "abc" for one in of(site, 0.02)]
    for left, told in [(0.029, 1), (0.031, 0)]:  # of 0.05: the others have 0.02
        mine = of(noise=0.05, channel=20.0, ways={"without_channels": left})
        assert len(Outliers().analyze(others + mine)) == told
        token = of(noise=0.05, token=20.0, ways={"without_tokens": left})
        assert len(Outliers().analyze(others + token)) == told


def test_what_is_told_is_what_does_harm_not_what_is_largest():
    ways = {"without_tokens": 0.1, "without_channels": 0.01}
    (one,) = found(noise=0.1, token=30.0, channel=20.0, ways=ways)
    assert one.unit == CHANNELS
    assert "10.00% into the output's energy, 1.00% without it" in one.claim


@pytest.mark.parametrize(
    ("ways", "remedy", "left"),
    [
        ({"smoothed": 0.01, "x_channel": 0.02, "x_high": 0.0}, "quant.ptq.smooth", "1.00%"),
        ({"smoothed": 0.03, "x_channel": 0.02, "x_high": 0.0}, "granularity channel", "2.00%"),
        ({"rotated": 0.01, "smoothed": 0.02}, "RHT", "1.00%"),
        ({"smoothed": 0.09, "x_high": 0.03}, "input in high precision", "3.00%"),
    ],
)
def test_the_remedy_is_the_one_that_leaves_least(ways, remedy, left):
    (one,) = found(token=20.0, ways=ways)
    assert remedy in one.remedy
    assert f"{left} with the remedy" in one.claim


def test_what_was_not_measured_is_not_guessed():
    assert Outliers().analyze([]) == []
    for lacking in ("intended", "without_channels"):
        some = [one for one in of(channel=20.0) if one.key != f"{lacking}.noise_share"]
        assert Outliers().analyze(some) == []
    without = [one for one in of(channel=20.0) if one.probe != "output_error"]
    assert Outliers().analyze(without) == []
    assert Outliers().analyze([one for one in of(channel=20.0) if one.probe != "moments"]) == []


ONE_SCALE = {"as_it_is": 0.24, "x_high": 0.004, "x_channel": 0.018, "x_voxel": 0.008}


def ranges(ways=None, **sizes):
    spread = [
        Record("", 1, "fc", "input", "moments", "absmax", 17.0),
        Record("", 1, "fc", "input", "moments", "std", 0.5),
    ]
    return Outliers().analyze([*of(noise=0.24, ways=ways or ONE_SCALE, **sizes), *spread])


def test_one_scale_that_few_values_set_is_the_cause_and_no_alarm():
    (one,) = ranges()
    assert (one.cause, one.severity, one.unit) == (Cause.CHANNEL_OUTLIER, Severity.INFO, RANGE)
    assert one.effect == pytest.approx(0.24 / 0.018)
    assert "34 standard deviations" in one.claim
    assert "24.00% into the output's energy, 1.80% with a scale a channel, 0.40%" in one.claim
    assert "granularity channel" in one.remedy


def test_where_a_scale_a_channel_is_not_enough_it_is_spatial():
    (one,) = ranges(ONE_SCALE | {"x_channel": 0.061})
    assert one.cause is Cause.SPATIAL_OUTLIER
    assert "a scale a voxel" in one.claim


@pytest.mark.parametrize(
    "ways",
    [
        ONE_SCALE | {"x_channel": 0.061, "x_voxel": 0.061},  # less than a bit
        ONE_SCALE | {"x_high": 0.1},  # the weight is noisy too
        ONE_SCALE | {"as_it_is": 0.5},  # the layer does not do what its recipe says
        {"as_it_is": 0.24, "x_high": 0.004, "smoothed": 0.01},  # no finer scale was tried
        {"x_high": 0.004, "x_channel": 0.018},
    ],
)
def test_noise_that_finer_scales_do_not_explain_has_no_range(ways):
    assert ranges(ways) == []


def rows(size, felt, site="fc", **sizes):
    """Records of a weight whose largest output is ``size`` times the median one."""
    ends = [("max", size**2 * 3.0), ("median", 3.0)]
    return [
        *of(site, **sizes),
        *(
            Record("", 1, site, "weight", "moments", f"token_mean_square_{end}", value)
            for end, value in ends
        ),
        *(
            Record("", 1, site, "grad_output", "output_error", f"{way}.loss_scatter", value)
            for way, value in felt.items()
        ),
    ]


def test_one_output_that_sets_the_scale_of_the_whole_weight_is_told_as_such():
    """Each of its elements is the largest of an input channel, and no input is out of line."""
    records = rows(100.0, {"intended": 0.5, "w_channel": 0.01}, weight=5.0)
    (one,) = Outliers().analyze(records)
    assert (one.cause, one.roles, one.unit) == (Cause.CHANNEL_OUTLIER, (Role.WEIGHT,), OUTPUTS)
    assert one.effect == pytest.approx(100.0)
    assert one.severity is Severity.WARN
    assert "100 times the median output channel and set the scale of all" in one.claim
    assert "98% would be gone" in one.claim
    assert "scale an output channel" in one.remedy


@pytest.mark.parametrize(
    ("size", "felt"),
    [
        (7.0, {"intended": 0.5, "w_channel": 0.01}),
        (100.0, {"intended": 0.5, "w_channel": 0.49}),  # a scale for each changes nothing
        (100.0, {"intended": 0.5}),  # it has a scale for each, or is in blocks
    ],
)
def test_a_large_output_that_does_no_harm_is_none(size, felt):
    assert Outliers().analyze(rows(size, felt)) == []


def test_an_input_channel_of_the_weight_is_told_beside_a_row_that_does_not_explain_it():
    felt = {"intended": 0.5, "w_channel": 0.49}
    assert Outliers().analyze(rows(100.0, felt, weight=20.0)) == []
    (one,) = Outliers().analyze(rows(30.0, felt, weight=20.0))
    assert one.unit == CHANNELS


def test_an_outlier_is_told_once():
    (one,) = ranges(channel=20.0)
    assert one.unit == CHANNELS
