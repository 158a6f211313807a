"""An analysis from Python: the same findings as the command's, and a report that can be printed."""

from dataclasses import replace

import pytest
import torch
from analyzers.patients import subject
from torch import nn

import qprobe
from qprobe.errors import InputError
from qprobe.quant import convert, recipe

NOTHING_ELSE = {"only": ("dequantization",)}


def one_loud_output():
    """Three linear layers; one output of the second has huge weights, is never on, and costs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        model[2].weight[0] *= 100.0
        model[2].bias[0] = -1e6
        x = torch.randn(32, 8)
        batch = (x, model(x))
    convert(model, "int4-tensor", layers="all")
    return subject(model.eval(), [batch], recipe("int4-tensor"))


def test_a_report_names_the_layer_and_prints_what_the_command_prints(tmp_path):
    given = replace(one_loud_output(), name="three layers")
    file = tmp_path / "a.qprobe"
    report = qprobe.analyze(given, file, **NOTHING_ELSE)
    assert report.problem
    assert report.view.rows[0].site == "2"
    assert {site for one in report.findings for site in one.sites} >= {"2"}
    lines = str(report).splitlines()
    assert lines[0] == "three layers, int4-tensor, 3 layers with 89% of the parameters"
    assert lines[1] == report.verdict
    assert f"Next: qprobe plan {file} --target 99%" in lines
    assert repr(report) == f"<Report: {report.verdict}>"
    # Read again from its file it is the same, and a second analysis there is refused.
    assert str(type(report).read(file)) == str(report)
    with pytest.raises(InputError, match="exists already"):
        qprobe.analyze(given, file, **NOTHING_ELSE)


def test_without_a_file_nothing_is_left_but_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = qprobe.analyze(one_loud_output(), depth="quick", **NOTHING_ELSE)
    assert list(tmp_path.iterdir()) == []
    assert report.file is None
    assert "qprobe plan" not in str(report)
    assert {one.key for one in report.records} >= {"gap", "screen"}


def test_a_notebook_shows_it_and_takes_no_name_for_markup():
    given = replace(one_loud_output(), name="<script>")
    shown = qprobe.analyze(given, depth="quick", **NOTHING_ELSE)._repr_html_()
    assert shown.startswith("<pre>&lt;script&gt;, int4-tensor, 3 layers")
    assert "<script>" not in shown


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"depth": "deep"}, "depth is one of quick, normal, thorough, exhaustive; got 'deep'"),
        ({"steps": 3}, "pass verify=True"),
        ({"steps": 3, "verify": True}, "offers no training to go on with"),
        ({"only": ("dequantisation",)}, "did you mean 'dequantization'"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_measured(wrong, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        qprobe.analyze(one_loud_output(), tmp_path / "a.qprobe", **wrong)


def test_a_model_in_high_precision_is_told_how_to_be_quantized():
    given = replace(one_loud_output(), model=nn.Linear(8, 1), name="mine")
    with pytest.raises(InputError, match=r"qprobe\.convert\(model, 'int4-tensor'\)"):
        qprobe.analyze(given)


def test_a_folder_that_nobody_may_write_to_is_told_before_anything_is_measured(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("qprobe.analyzers.analysis_file.os.access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written to; give another place"):
        qprobe.analyze(one_loud_output(), tmp_path / "a.qprobe", depth="quick")
