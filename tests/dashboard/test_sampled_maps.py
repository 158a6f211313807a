import numpy as np
import pytest
import synthetic_runs

import qprobe
from qprobe.dashboard.sampled_maps import latest, places
from qprobe.records import Array, Batch, RunInfo, create

SITE = "blocks.0.attn.product"


@pytest.fixture
def reader(tmp_path):
    synthetic_runs.training(tmp_path / "one.qprobe")
    with qprobe.open(tmp_path / "one.qprobe") as opened:
        yield opened


def test_the_last_pair_is_the_sum_of_what_was_kept(reader):
    assert places(reader) == [(SITE, "attn_logits"), (SITE, "attn_probs")]
    found = latest(reader, SITE, "attn_probs")
    assert (found.step, found.head) == (100, "head 2")
    np.testing.assert_allclose(found.quantized, 1.1 * found.reference, rtol=2e-3)
    assert np.isneginf(latest(reader, SITE, "attn_logits").quantized[:, 14:]).all()


def test_a_look_without_arrays_is_passed_over(tmp_path):
    with create(tmp_path / "run.qprobe", RunInfo(config={}, environment={})) as writer:
        columns = [synthetic_runs.Column("a[0]", "attn_probs", "attention_maps", "n")]
        layout = writer.layout(columns)
        for step in (1, 101):
            writer.records(step, Batch(layout=layout, values=np.array([4.0])))
        writer.arrays(
            Array(step=1, site="a[0]", role="attn_probs", probe="attention_maps",
                  key=f"head0.{name}", data=np.eye(2, dtype=np.float16))
            for name in ("reference", "change")
        )  # fmt: skip
    with qprobe.open(tmp_path / "run.qprobe") as reader:
        assert latest(reader, "a[0]", "attn_probs").step == 1
        assert latest(reader, "a[0]", "attn_logits") is None
        assert latest(reader, "gone", "attn_probs") is None
