"""Whether the noise of a layer shows, from numbers by hand."""

import pytest

from qprobe.analyzers.noise_by_layer import NoiseByLayer


def of(intended, better, felt=0.0, felt_better=0.0):
    return {
        "intended.noise_share": intended,
        "better.noise_share": better,
        "intended.loss_scatter": felt,
        "better.loss_scatter": felt_better,
        "intended.loss_change": 9.0,
        "n": 4.0,
    }


#: Their median noise is 0.02, and the loss feels 60 of them together.
OTHERS = {
    "a": of(0.01, 0.0, 10.0), "b": of(0.02, 0.0, 20.0), "c": of(0.5, 0.0, 30.0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("mine", "shows"),
    [
        (of(0.03, 0.0099), True),  # as much as the median other layer has is gone
        (of(0.03, 0.0101), False),
        (of(9.0, 8.99), False),  # noisy for another reason
        (of(0.001, 0.0, 10.0, 6.4), True),  # 3.6 of 70: a twentieth is 3.5
        (of(0.001, 0.0, 10.0, 6.6), False),
        (of(0.01, 0.04, 10.0, 50.0), False),  # worse
    ],
)
def test_it_shows_in_the_noise_or_in_the_loss(mine, shows):
    assert NoiseByLayer({**OTHERS, "mine": mine}).shows("mine", "better") is shows


def test_of_a_single_layer_all_that_is_gone_shows():
    assert NoiseByLayer({"fc": of(0.2, 0.19)}).shows("fc", "better")
    assert not NoiseByLayer({"fc": of(0.2, 0.2)}).shows("fc", "better")


def test_what_was_not_measured_does_not_show():
    noise = NoiseByLayer({"fc": of(0.2, 0.1), "silent": {"n": 4.0}})
    assert not noise.shows("fc", "other")
    assert not noise.shows("silent", "better")
    assert noise.shows("fc", "better")
    assert noise.shares("fc") == {"intended": 0.2, "better": 0.1}
    assert noise.sites == ("fc", "silent")
