import numpy as np
import pytest

from qprobe.dashboard.layer_detail import layer_detail
from qprobe.dashboard.library import Library
from qprobe.dashboard.pages.branches import _beside, _imbalances
from qprobe.dashboard.parts import parts
from qprobe.records import Batch, Column, RunInfo, create

FUSION = "decoder.0/cat.0"


@pytest.fixture
def library(tmp_path):
    """An analysis, which measured a fusion under the recipe and in high precision."""
    probes = ("branch_energy", "branch_energy.high_precision")
    keys = ("branch0.energy", "branch1.energy", "imbalance")
    columns = [Column(FUSION, "output", probe, key) for probe in probes for key in keys]
    with create(tmp_path / "a.qprobe", RunInfo(config={}, environment={})) as writer:
        layout = writer.layout(columns)
        writer.records(1, Batch(layout=layout, values=np.arange(6.0)))
    return Library([tmp_path])


def test_a_run_is_not_mixed_with_its_control(library):
    (run,) = library.runs()
    found = library.answer(run, parts, "branch")
    ours = [float(part.series.values[-1]) for part in found if not part.is_control]
    assert ours == [0.0, 1.0]
    assert [float(part.series.values[-1]) for part in _beside(found, None)] == [3.0, 4.0]
    # A baseline that is pinned is what was asked for.
    assert _beside(found, []) == []
    assert [part.is_control for part in _beside(found, found)] == [False, False]


def test_every_imbalance_has_a_name_of_its_own(library):
    (run,) = library.runs()
    told = _imbalances({FUSION: library.answer(run, layer_detail, FUSION)})
    assert {name: float(series.values[-1]) for name, series in told} == {
        FUSION: 2.0,
        f"{FUSION}, high precision": 5.0,
    }
