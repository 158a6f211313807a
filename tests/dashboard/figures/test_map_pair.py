import numpy as np

from qprobe.dashboard.figures.map_pair import caption, pair
from qprobe.dashboard.sampled_maps import MapPair

HIDDEN = -np.inf
FOUND = MapPair(
    site="attn", role="attn_logits", head="head 1", step=7,
    reference=np.array([[0.0, HIDDEN], [1.0, -1.0]], dtype=np.float32),
    quantized=np.array([[0.0, HIDDEN], [1.5, -1.25]], dtype=np.float32),
)  # fmt: skip


def test_both_maps_share_a_scale_and_the_change_is_about_zero():
    figure = pair(FOUND, dark=False)
    before, after, change = figure.data
    assert before.coloraxis == after.coloraxis == "coloraxis"
    assert change.coloraxis == "coloraxis2"
    np.testing.assert_allclose(change.z, [[0.0, np.nan], [0.5, -0.25]])
    assert (figure.layout.coloraxis2.cmin, figure.layout.coloraxis2.cmax) == (-0.5, 0.5)
    assert np.isnan(np.asarray(before.z)[0, 1])


def test_nothing_changed_and_nothing_kept():
    same = MapPair(**{**vars(FOUND), "quantized": FOUND.reference})
    assert pair(same, dark=True).layout.coloraxis2.cmax == 1.0
    assert "No map" in pair(None, dark=True).layout.annotations[0].text


def test_the_caption_says_which_map_it_is():
    assert caption(FOUND).startswith("logits of head 1 of one sample, step 7, 2 × 2 tokens")
    assert caption(None) == ""
