import synthetic_runs

from qprobe import records
from qprobe.dashboard.layer_detail import layer_detail
from qprobe.records import Column, RunInfo, create


def test_a_layer_has_its_series_and_its_newest_histogram(library):
    run = library.run("vit-nvfp4-s0")
    detail = library.answer(run, layer_detail, synthetic_runs.FAILING)
    found = detail.magnitudes["input"]
    assert found.step == 100
    assert found.octaves.sum() == 4000
    zero = detail.series[Column(synthetic_runs.FAILING, "input", "histogram", "zero")]
    assert (found.zero, found.nan, found.infinite) == (int(zero.values[-1]), 0, 0)
    assert found.largest >= 64
    assert len(detail.series) == sum(map(len, synthetic_runs.METRICS.values()))


def test_a_name_is_no_pattern(tmp_path):
    with create(tmp_path / "a.qprobe", RunInfo(config={}, environment={})) as writer:
        for site in ("a[0]", "a0", "a*", "ab"):
            writer.record(0, Column(site, "input", "p", "k"), 1.0)
    with records.open(tmp_path / "a.qprobe") as reader:
        for site in ("a[0]", "a*"):
            assert [column.site for column in layer_detail(reader, site).series] == [site]
