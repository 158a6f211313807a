import re

import pytest
import synthetic_runs

from qprobe import records
from qprobe.dashboard.library import Library
from qprobe.dashboard.report import write
from qprobe.errors import InputError
from qprobe.records import Finding, Record, RunInfo, Severity
from qprobe.records.schema import Cause


def test_it_holds_findings_and_charts_and_loads_nothing(library, tmp_path):
    text = write(library, tmp_path / "report.html").read_text("utf-8")
    page = re.sub(r"<script>.*?</script>", "", text, flags=re.S)  # plotly's own source names sites
    assert synthetic_runs.FAILING in page
    assert "int4-tensor" in page
    assert not re.search(r"(?:src|href)\s*=\s*(?!\"data:)", page)
    assert "default-src 'none'" in page
    assert '"showSendToCloud": false' in text.lower().replace("sendtocloud", "SendToCloud")


def test_names_that_are_markup_stay_text(tmp_path):
    synthetic_runs.hostile(tmp_path / "a.qprobe")
    text = write(Library([tmp_path]), tmp_path / "report.html").read_text("utf-8")
    assert "<img src=x" not in text
    assert "<b>nvfp4" not in text


def test_a_place_that_is_none_is_refused(library, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write(library, tmp_path / "no" / "report.html")


def test_a_report_on_nothing_is_refused(tmp_path):
    report = tmp_path / "report.html"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing to report on: no run is in what was named"):
        write(Library([tmp_path / "empty"]), report)
    (tmp_path / "a.qprobe").write_text("no run")
    with pytest.raises(InputError, match=r"nothing to report on: .*a\.qprobe is not a qprobe run"):
        write(Library([tmp_path / "a.qprobe"]), report)
    assert not report.exists()


def of_analysis(path):
    """An analysis of one layer, with what was found of the model and of the layer."""
    config = {"kind": "analysis", "title": "<my> net", "score": "auprc", "layers": "all"}
    layer, whole = (
        Finding(
            analyzer="dequantization", claim=claim, cause=Cause.NOT_EXPLAINED,
            severity=Severity.CRITICAL, sites=sites, roles=(), effect=0.1, unit="score",
            low=low, high=0.2, n=8, control="c", remedy="r", reference="",
        )
        for claim, sites, low in (("head costs it", ("head",), 0.2), ("it costs 15%", (), 0.1))
    )  # fmt: skip
    with records.create(path, RunInfo(config=config, environment={}, recipe="nvfp4")) as run:
        values = {"recovery": 0.1, "recovery.low": 0.05, "recovery.high": 0.2}
        run.emit([Record("", 0, "head", "", "dequantization", k, v) for k, v in values.items()])
        run.emit([Record("", 0, "a.container", "input", "derivatives", "tried", 1.0)])
        run.emit([Record("", 0, "head", "input", "moments", "kurtosis", 3.0)])
        run.findings([layer, whole])
    return path


def test_an_analysis_alone_is_its_own_title_and_has_no_baseline_to_stand_beside(tmp_path):
    text = write(Library([of_analysis(tmp_path / "net.qprobe")]), tmp_path / "r.html").read_text()
    assert "<h1>qprobe report: &lt;my&gt; net</h1>" in text
    assert "nvfp4, layers all, net, " in text
    assert "Quality against the baseline" not in text
    assert text.index("it costs 15%") < text.index("head costs it")
    title = re.sub(r"(<|\\u003c)br(>|\\u003e)", " ", text)  # in lines, for phones
    assert "auprc that the layer alone brings back" in title
    assert "a.container" not in text
    assert "0.1 score [0.1, 0.2], n = 8" in text
    assert "0.1 score, n = 8" in text  # exact: low is high


def test_several_runs_are_counted_and_compared(library, tmp_path):
    text = write(library, tmp_path / "r.html").read_text("utf-8")
    assert "<h1>qprobe report</h1>" in text
    assert re.search(r"\d+ runs, ", text)
    assert "Quality against the baseline" in text
