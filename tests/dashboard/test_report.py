import re

import pytest
import synthetic_runs

from qprobe.dashboard.library import Library
from qprobe.dashboard.report import write
from qprobe.errors import InputError


def test_it_holds_findings_and_charts_and_loads_nothing(library, tmp_path):
    text = write(library, tmp_path / "report.html").read_text("utf-8")
    page = re.sub(r"<script>.*?</script>", "", text, flags=re.S)  # plotly's own source names sites
    assert synthetic_runs.FAILING in page
    assert "int4-tensor" in page
    assert not re.search(r"(?:src|href)\s*=", page)
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
