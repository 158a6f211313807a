import json
import re
import sqlite3
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qprobe import records
from qprobe.analyzers.dequantization import Dequantization
from qprobe.cli.main import main
from qprobe.records import RunInfo, Status

FAST = ("--only", "dequantization", "--only", "weights")


def told(capsys, *arguments):
    code = main(["analyze", *map(str, arguments)])
    return code, capsys.readouterr()


def test_the_layer_with_one_huge_output_is_named_and_its_remedy_verified(own, tmp_path, capsys):
    """Of five remedies one has to be sure beside the luck of the others: 2,048 samples, not 512."""
    own.write_text(own.read_text().replace("torch.randn(64, 32", "torch.randn(256, 32"))
    out = tmp_path / "a.qprobe"
    code, said = told(
        capsys, "--subject", f"{own}:make_subject", "--recipe", "int4-tensor", "--layers", "all",
        "--verify", "--only", "dequantization", "--out", out, "--json",
    )  # fmt: skip
    whole = json.loads(said.out)
    assert code == 0
    assert whole["problem"] is True
    first = whole["rows"][0]
    assert first["site"] == "2"
    assert first["verified"] == "verified"
    assert first["remedy"].startswith(("int4-", "svd"))  # not smooth: the input is fine
    assert f"running your code: {own}:make_subject" in said.err
    with records.open(out) as run:
        assert run.meta.status is Status.FINISHED
        assert run.meta.recipe == "int4-tensor"
        keys = {one.key for one in run.records(site="2", probe="verification")}
    assert {"recovery.bf16", "recovery.smooth", "recovery.int4-channel-token"} <= keys
    # The same file, read again by another command.
    capsys.readouterr()
    assert main(["plan", str(out), "--keep", "1 layer"]) == 0
    assert re.search(r"^2 +1,024 +\+0\.\d+", capsys.readouterr().out, re.MULTILINE)


def test_a_remedy_is_verified_by_training_with_it(own, tmp_path, capsys):
    out = tmp_path / "a.qprobe"
    asked = (
        "--subject", f"{own}:trains", "--recipe", "int4-tensor", "--layers", "all", "--verify",
        "--steps", 2, "--only", "dequantization", "--out", out,
    )  # fmt: skip
    code, said = told(capsys, *asked, "--json")
    assert code == 0
    whole = json.loads(said.out)
    (found,) = [one for one in whole["findings"] if one["analyzer"] == "short_run"]
    assert found["sites"] == ["2"]
    assert "2 steps with int4-" in found["claim"]
    assert any(found["claim"][1:] in line for line in whole["caveats"])
    with records.open(out) as run:
        assert run.meta.config["steps"] == 2
        curve = run.records(probe="short_run", key="loss.as it is")
        assert [one.step for one in curve] == [1, 2]


def test_a_checkpoint_of_a_training_rebuilds_model_and_data(trained, tmp_path, capsys):
    out = tmp_path / "a.qprobe"
    code, said = told(capsys, trained, *FAST, "--quick", "--out", out)
    assert code == 0
    assert "trained in bf16, so judged under nvfp4" in said.out
    assert "AUPRC" in said.out
    with records.open(trained / "run.qprobe") as training, records.open(out) as run:
        digest, name = (run.meta.source or "").split()
        assert name == training.meta.run
        assert len(digest) == 64
        assert not any(run.select(probe="dequantization", key="recovery"))
        assert any(run.select(probe="dequantization", key="parameters"))


def test_weights_alone_are_judged_and_what_is_lacking_is_said(tmp_path, capsys):
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    weight[5, 7] = torch.nan
    save_file({"[bold]x[/bold].weight": weight}, tmp_path / "model.safetensors")
    code, said = told(capsys, tmp_path / "model.safetensors", "--fail-on", "warn")
    assert code == 1
    assert "1 of 1 weight of model.safetensors holds NaN" in said.out
    assert "[bold]x[/bold]" in said.out
    assert "--subject" in said.out
    assert (tmp_path / "model-weights.qprobe").is_file()
    assert re.search(r"^--fail-on warn: .+\.$", said.err, re.MULTILINE), said.err


def test_shards_are_one_checkpoint_with_the_name_of_their_folder(tmp_path, capsys):
    folder = tmp_path / "my-llama"
    folder.mkdir()
    where = {}
    for shard in ("a", "b"):
        weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(ord(shard)))
        save_file({f"{shard}.weight": weight}, folder / f"{shard}.safetensors")
        where[f"{shard}.weight"] = f"{shard}.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    code, said = told(capsys, folder)
    assert code == 0
    assert "No problem found in 2 weights of my-llama, 2 shards" in said.out
    assert (folder / "model-weights.qprobe").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{tmp}/none.pt"], "there is no"),
        (["{tmp}/empty"], "has no weights"),
        ([], "there is nothing to analyze"),
        (["--subject", "{own}:raises"], "RuntimeError: no \\[bold\\]data"),
        (["--subject", "{tmp}/ends.py:f"], "raised SystemExit: 0, on import; run it alone"),
        (["--subject", "{own}:wrong"], "it returned an object of type int"),
        (["--subject", "{own}:nothing"], "has no function 'nothing'"),
        (["--subject", "{tmp}/no.py:f"], "there is no file"),
        (["--subject", "{own}"], "file.py:function"),
        (["--subject", "{own}:make_subject"], "no quantized layer"),
        (["--subject", "{own}:make_subject", "{tmp}/other.pt"], "\\[5, 32\\] where the model has"),
        (["{tmp}/other.pt", "--recipe", "nvfp4"], "without their model"),
        (["{tmp}/other.pt", "--recipe", "nvfp5"], "nvfp4"),
        (["{tmp}/other.pt", "--layers", "some"], "'mid' or 'all'"),
        (["{tmp}/other.pt", "--fail-on", "bad"], "'critical' or 'warn'"),
        (["{tmp}/other.pt", "--quick", "--thorough"], "exclude each other"),
        (["{tmp}/other.pt", "--baseline", "{tmp}/none.qprobe"], "none.qprobe"),
        (["{tmp}/other.pt", "--html", "{tmp}/no/r.html"], "there is no folder"),
        (["{tmp}/other.pt", "--html", "{tmp}/empty"], "is a folder; name the HTML file in it"),
        (["{tmp}/other.pt", "--steps", "3"], "give it with --verify"),
        (["{tmp}/other.pt", "--steps", "3", "--verify"], "offers no training to go on with"),
        (
            ["--subject", "{own}:make_subject", "--recipe", "nvfp4", "--steps", "3", "--verify"],
            "offers no training to go on with",
        ),
        (["{tmp}/other.pt", "--quick", "--verify"], "leave out one of them"),
        (["{tmp}/other.pt", "--only", "wheights"], "did you mean 'weights'"),
        (["{tmp}/other.pt", "--only", "dequantization"], "nothing is left to analyze"),
        (["{tmp}/other.pt", "--out", "{tmp}/no/a.qprobe"], "there is no folder"),
        (["{tmp}/other.pt", "--out", "{tmp}/other.pt", "--overwrite"], "other.pt"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_2(arguments, sentence, own, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    shapes = {"0": (5, 32), "2": (32, 32), "4": (4, 32)}
    state = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "other.pt")
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)")
    before = (tmp_path / "other.pt").read_bytes()
    named = [one.format(tmp=tmp_path, own=own) for one in arguments]
    code, said = told(capsys, *named)
    assert code == 2
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("qprobe: ")
    assert re.search(sentence, last), last
    assert (tmp_path / "other.pt").read_bytes() == before


def test_an_existing_report_is_kept_unless_told(own, tmp_path, capsys):
    asked = ("--subject", f"{own}:make_subject", "--recipe", "nvfp4", "--quick", *FAST[:2])
    out = ("--out", tmp_path / "a.qprobe")
    assert told(capsys, *asked, *out)[0] == 0
    code, said = told(capsys, *asked, *out)
    assert code == 2
    assert "exists already; give --overwrite" in said.err  # the same, of code that may be another
    _, said = told(capsys, *asked, "--layers", "all", *out)
    assert "exists already and is another analysis (layers none, not all); give" in said.err
    assert told(capsys, *asked, *out, "--overwrite")[0] == 0


def test_the_same_analysis_of_the_same_weights_is_read_and_not_measured_again(
    tmp_path, capsys, monkeypatch
):
    weights = tmp_path / "w.safetensors"
    save_file(
        {"fc.weight": torch.randn(32, 32, generator=torch.Generator().manual_seed(0))}, weights
    )
    asked = (weights, "--out", tmp_path / "a.qprobe")
    first = told(capsys, *asked)
    assert (first[0], "measured before" in first[1].out) == (0, False)

    def never(*_):
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr("qprobe.analyzers.analysis.Analysis.run", never)
        code, again = told(capsys, *asked)
        assert code == 0
        assert "measured before (--overwrite measures again)" in again.out
        assert again.out.splitlines()[1:] == first[1].out.splitlines()[1:]
        # Another depth is another question, and its answer has no place there.
        code, other = told(capsys, *asked, "--quick")
        assert code == 2
        assert "exists already" in other.err
    # So are other weights of the same name.
    save_file({"fc.weight": torch.zeros(32, 32)}, weights)
    code, other = told(capsys, *asked)
    assert code == 2
    assert "exists already" in other.err
    assert "measured before" not in told(capsys, *asked, "--overwrite")[1].out


@pytest.mark.parametrize("option", [(), ("--overwrite",)])
def test_a_report_that_another_process_is_writing_is_left_alone(option, tmp_path, capsys):
    """Replaced, it would hold what one of the two says, and the other would read it as its own."""
    weights, out = tmp_path / "w.safetensors", tmp_path / "a.qprobe"
    save_file({"fc.weight": torch.eye(32)}, weights)
    with records.create(out, RunInfo(config={"title": "theirs"}, environment={})):
        code, said = told(capsys, weights, "--out", out, *option)
    assert code == 2
    assert re.search(r"a.qprobe is being written by process \d+ on .*; stop that", said.err)
    with records.open(out) as run:
        assert run.meta.config == {"title": "theirs"}
    # Its writer has ended: now it is a file like any other.
    assert told(capsys, weights, "--out", out, "--overwrite")[0] == 0


def test_ctrl_c_keeps_what_was_measured_and_the_same_command_goes_on(
    own, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "a.qprobe"
    asked = (
        "--subject", f"{own}:make_subject", "--recipe", "int4-tensor", "--layers", "all",
        "--only", "dequantization", "--out", out, "--json",
    )  # fmt: skip
    measure = Dequantization.measure

    def interrupted(self, subject):
        for one in measure(self, subject):
            yield one
            if one.key == "recovery.n":
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Dequantization, "measure", interrupted)
        code, said = told(capsys, *asked)
    assert code == 130
    assert "the same command goes on" in said.err
    with records.open(out) as run:
        assert run.meta.status is Status.INTERRUPTED
        assert len(list(run.select(key="recovery"))) == 1
    code, said = told(capsys, *asked)
    resumed = json.loads(said.out)
    other = told(capsys, *asked[:-2], tmp_path / "b.qprobe", "--json")[1]
    whole = json.loads(other.out)
    assert code == 0
    assert [row["site"] for row in resumed["rows"]] == [row["site"] for row in whole["rows"]]
    assert resumed["verdict"] == whole["verdict"]
    connection = sqlite3.connect(out)
    assert connection.execute("SELECT count(*) FROM run").fetchone() == (1,)
    connection.close()


def test_a_baseline_that_was_better_is_exit_1(own, tmp_path, capsys):
    asked = ("--subject", f"{own}:make_subject", "--layers", "all", "--only", "dequantization")
    good, bad = tmp_path / "good.qprobe", tmp_path / "bad.qprobe"
    assert told(capsys, *asked, "--recipe", "int8-channel-token", "--out", good)[0] == 0
    code, said = told(capsys, *asked, "--recipe", "int4-tensor", "--out", bad, "--baseline", good)
    assert code == 1
    assert "Worse than the baseline" in said.out
    assert "recipe int8-channel-token, not int4-tensor" in " ".join(said.out.split())
    code, said = told(
        capsys, *asked, "--recipe", "int4-tensor", "--out", bad, "--overwrite", "--baseline", bad
    )
    assert (code, "Worse" in said.out) == (0, False)


@pytest.mark.parametrize(
    ("recipe", "threshold", "code"),
    [
        ("int4-tensor", "critical", 1),
        ("int4-tensor", "warn", 1),
        ("int8-channel-token", "critical", 0),
        ("int8-channel-token", "warn", 0),
    ],
)
def test_fail_on_is_exit_1_from_that_severity_on(recipe, threshold, code, own, tmp_path, capsys):
    found, said = told(
        capsys, "--subject", f"{own}:make_subject", "--recipe", recipe, "--layers", "all",
        "--only", "dequantization", "--out", tmp_path / "a.qprobe", "--fail-on", threshold,
    )  # fmt: skip
    assert found == code
    assert (f"--fail-on {threshold}: " in said.err) is bool(code)
    assert ("No problem found" in said.out) is not bool(code)


def test_one_html_file_below_three_megabytes(own, tmp_path, capsys):
    pytest.importorskip("dash")
    html = tmp_path / "r.html"
    code, _ = told(
        capsys, "--subject", f"{own}:make_subject", "--recipe", "int4-tensor", "--layers", "all",
        "--only", "dequantization", "--out", tmp_path / "a.qprobe", "--html", html, "--quiet",
    )  # fmt: skip
    assert code == 0
    assert 100_000 < html.stat().st_size < 3_000_000


def test_the_keys_of_its_json_are_those_of_the_reference(tmp_path, capsys):
    page = (Path(__file__).parents[2] / "docs" / "reference.md").read_text("utf-8")
    part = page.partition("## The JSON of an analysis")[2].partition("\n## ")[0]
    table = [line.split(" | ") for line in part.splitlines() if line.startswith("| `")]
    told = {cells[0]: cells[1] for cells in table}
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    weight[7] *= 20.0
    save_file({"fc.weight": weight}, tmp_path / "m.safetensors")
    assert main(["analyze", str(tmp_path / "m.safetensors"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {name for cell in told for name in re.findall(r"`([^`]*)`", cell)} == set(said)
    for key in ("rows", "findings", "kept"):
        (text,) = (text for cell, text in told.items() if f"`{key}`" in cell)
        parts = set(re.findall(r"`([^`]*)`", text)) - {"estimate", "low", "high", "n"}
        assert parts == set(said[key][0]) - {"low", "high", "n"}, key
