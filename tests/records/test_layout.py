import numpy as np
import pytest
from sample_runs import columns

from qprobe.errors import InputError
from qprobe.records import Batch, Layout
from qprobe.records.layout import BLOCK, SEGMENT, blocks, segments


@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 5])
def test_segments_and_blocks_cover_every_column_once(count: int):
    covered = []
    for segment, part in segments(count):
        assert part.start == segment * SEGMENT
        for block, inner in blocks(segment, part.stop - part.start):
            assert inner.stop - inner.start <= BLOCK
            assert part.start + inner.start == block * BLOCK
            covered += range(part.start + inner.start, part.start + inner.stop)
    assert covered == list(range(count))


@pytest.mark.parametrize(
    ("values", "present", "message"),
    [
        (np.zeros(3), None, r"values .* shape \(3,\); the layout has \(2,\)"),
        (np.zeros((2, 1)), None, r"shape \(2, 1\)"),
        (np.zeros(2), np.ones(1, bool), r"present .* shape \(1,\)"),
        (np.zeros(2), np.ones(2), "dtype float64; give booleans"),
    ],
)
def test_a_batch_fits_its_layout(values: np.ndarray, present: np.ndarray | None, message: str):
    layout = Layout(number=1, columns=tuple(columns(2)), series=np.array([1, 2]))
    with pytest.raises(InputError, match=message):
        Batch(layout=layout, values=values, present=present)
