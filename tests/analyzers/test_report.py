"""A report read from a file that another program wrote."""

import pytest

from qprobe import records
from qprobe.analyzers.report import Report
from qprobe.errors import InputError
from qprobe.records import RunInfo


def written(path, config):
    with records.create(path, RunInfo(config=config, environment={}, recipe="nvfp4")):
        pass
    return path


def test_a_file_is_called_by_its_title_or_else_by_its_name(tmp_path):
    named = Report.read(written(tmp_path / "a.qprobe", {"title": "cnn tiny", "layers": "all"}))
    assert str(named).splitlines()[0] == "cnn tiny, nvfp4, layers all"
    bare = Report.read(written(tmp_path / "b.qprobe", {}))
    assert "b.qprobe" in bare.verdict
    assert (bare.problem, bare.findings, bare.records) == (False, (), ())


def test_the_file_of_a_report_that_is_not_kept_is_not_named(tmp_path):
    report = Report.read(written(tmp_path / "a.qprobe", {}))
    assert "Look:  qprobe dashboard" in str(report)
    assert str(tmp_path) not in str(report.without_file())


def test_what_is_no_run_file_is_refused(tmp_path):
    (tmp_path / "a.qprobe").write_text("nonsense")
    with pytest.raises(InputError, match=r"a\.qprobe"):
        Report.read(tmp_path / "a.qprobe")
