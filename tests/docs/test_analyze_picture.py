from pathlib import Path

from qprobe import records
from qprobe.records import Record, RunInfo

DOCS = Path(__file__).parents[2] / "docs"


def test_the_picture_is_the_report_of_the_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    from analyze_picture import draw

    run = tmp_path / "a.qprobe"
    config = {"title": "a <b>model</b>", "score": "auprc"}
    values = {"score.high_precision": 0.9, "gap": 0.3}
    with records.create(run, RunInfo(config=config, environment={}, recipe="nvfp4")) as writer:
        for key, value in values.items():
            parts = {"": value, ".low": value - 0.1, ".high": value + 0.1, ".n": 5.0}
            for part, one in parts.items():
                writer.emit([Record("", 0, "", "", "dequantization", key + part, one)])
    text = draw(run).replace("&#160;", " ")
    assert "nvfp4 costs 0.300 AUPRC" in text
    assert "<b>model" not in text


def test_the_picture_in_the_docs_names_the_layer_of_the_guide():
    text = (DOCS / "analyze.svg").read_text().replace("&#160;", " ")
    guide = (DOCS / "howto" / "my-4-bit-run-is-worse.md").read_text()
    assert "head alone is 76% of it" in text
    assert "`head` alone back in high precision, 76 %" in guide
