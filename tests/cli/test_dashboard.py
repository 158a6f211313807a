import pytest

from qprobe.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone"], "there is nothing at gone"),
        (["."], "--allow-host"),
        ([".", "--base-path", "x"], "base path"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    extra = ["--host", "bench.example"] if said == "--allow-host" else []
    assert main(["dashboard", *arguments, *extra]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("qprobe.dashboard._NEEDS", ("dash", "surely_not_installed"))
    assert main(["dashboard", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "surely_not_installed" in error
    assert "qprobe[dashboard]" in error
