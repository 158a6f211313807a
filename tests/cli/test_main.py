import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer

from qprobe import __version__
from qprobe.cli import main as frame
from qprobe.cli.main import main
from qprobe.errors import InputError, MissingExtraError, UnknownNameError

QPROBE = (sys.executable, "-c", "from qprobe.cli.main import run; run()")


@pytest.fixture
def failing(monkeypatch):
    """Adds a subcommand ``fail`` that raises or returns what the test says."""

    def _failing(outcome):
        def fail() -> int | None:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        app = typer.Typer(add_completion=False)
        app.callback(invoke_without_command=True)(frame.options)
        app.command("fail")(fail)
        monkeypatch.setattr(frame, "app", app)

    return _failing


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (1, 1), ("text", 0)])
def test_what_a_subcommand_returns_is_the_exit_code(failing, outcome, code):
    failing(outcome)
    assert main(["fail"]) == code


def test_typers_own_exit_is_the_exit_code(failing):
    failing(typer.Exit(1))
    assert main(["fail"]) == 1


ERRORS = [
    (InputError("the file x.pt is empty; write it again."), 2, "the file x.pt is empty; write"),
    (UnknownNameError("there is no recipe called 'x'."), 2, "there is no recipe called 'x'."),
    (MissingExtraError("install qprobe[export]."), 2, "install qprobe[export]."),
    (OSError(36, "File name too long", "x" * 999), 2, f"File name too long at {'x' * 200}…; check"),
    (OSError(28, "No space left on device"), 2, "No space left on device; check the path, its"),
    (ValueError("two\nlines"), 3, "a defect of qprobe: ValueError: two lines; run again with"),
    (KeyboardInterrupt(), 130, "interrupted."),
    (typer.Abort(), 130, "interrupted."),
]


@pytest.mark.parametrize(("error", "code", "sentence"), ERRORS)
def test_an_error_is_one_sentence_on_stderr(failing, capsys, error, code, sentence):
    failing(error)
    assert main(["fail"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert only_line(err).startswith(f"qprobe: {sentence}")


@pytest.mark.parametrize(("error", "code", "sentence"), ERRORS)
def test_debug_adds_the_traceback_and_keeps_the_exit_code(failing, capsys, error, code, sentence):
    failing(error)
    assert main(["--debug", "fail"]) == code
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.splitlines()[-1].startswith(f"qprobe: {sentence}")


@pytest.mark.parametrize(("value", "traced"), [("1", True), ("0", False), ("", False)])
def test_the_environment_switches_debug_on(failing, capsys, monkeypatch, value, traced):
    failing(InputError("no."))
    monkeypatch.setenv("QPROBE_DEBUG", value)
    assert main(["fail"]) == 2
    assert ("Traceback" in capsys.readouterr().err) is traced


def test_debug_lasts_for_one_run(failing, capsys):
    failing(InputError("no."))
    main(["--debug", "fail"])
    capsys.readouterr()
    main(["fail"])
    assert capsys.readouterr().err == "qprobe: no.\n"
    assert "QPROBE_DEBUG" not in os.environ


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nope"], "No such command 'nope'. Try 'qprobe --help'."),
        (["list", "nope"], "No such command 'nope'. Try 'qprobe list --help'."),
        (
            ["version", "more"],
            "Got unexpected extra argument(s) (more). Try 'qprobe version --help'.",
        ),
        (["version", "--nope"], "No such option: --nope. Try 'qprobe version --help'."),
    ],
)
def test_a_wrong_word_names_the_help_of_its_command(capsys, words, sentence):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"qprobe: {sentence}\n")


def test_help_cuts_no_command_and_begins_with_what_people_come_for(capsys):
    assert main(["--help"]) == 0
    _, commands = capsys.readouterr().out.split("Commands:\n")
    lines = commands.strip().splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["analyze", "dashboard", "watch"]
    assert not [line for line in lines if not line.endswith(".") or line.endswith("...")]


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_is_for_stdout(capsys, words):
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for part in ("Usage: qprobe", "list", "version", "--debug"):
        assert part in out


def test_the_words_come_from_the_process_by_default(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["qprobe", "list", "--json"])
    assert main() == 0
    assert "recipes" in json.loads(capsys.readouterr().out)


def test_the_installed_script_runs_this():
    script = os.path.join(os.path.dirname(sys.executable), "qprobe")
    seen = subprocess.run([script, "nope"], capture_output=True, text=True, check=False)
    assert (seen.returncode, seen.stdout) == (2, "")
    assert seen.stderr == "qprobe: No such command 'nope'. Try 'qprobe --help'.\n"


@pytest.mark.parametrize("words", [["list", "recipes"], ["list", "recipes", "--json"], ["--help"]])
def test_a_reader_that_goes_away_is_no_error(words):
    """The pipe is closed before the first byte, which is the worst that `| head` can do."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONUNBUFFERED"}
    try:
        seen = subprocess.run(
            [*QPROBE, *words],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment,
        )
    finally:
        os.close(writing)
    assert (seen.returncode, seen.stderr) == (0, "")


def test_a_pipe_to_head_gives_its_line():
    command = f'"{sys.executable}" -c "from qprobe.cli.main import run; run()" list recipes'
    seen = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", f"{command} | head -1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (seen.returncode, seen.stderr) == (0, "")
    assert only_line(seen.stdout).startswith("recipe ")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_an_output_without_our_letters_is_no_error(encoding):
    seen = subprocess.run(
        [*QPROBE, "list", "recipes"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (seen.returncode, seen.stderr) == (0, b"")
    dash = "–".encode(encoding, errors="replace")
    assert seen.stdout.splitlines()[1].split()[:2] == [b"bf16", dash]


SLEEPER = """
import time
from qprobe import __version__
from qprobe.cli import main as frame

@frame.app.command("sleep")
def sleep() -> None:
    print("ready", flush=True)
    time.sleep(60)

frame.run()
"""


def test_ctrl_c_ends_with_130_and_one_line():
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER, "sleep"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "qprobe: interrupted.\n")
    assert time.monotonic() - started < 50


@pytest.mark.parametrize("words", [["-m", "qprobe", "--version"], ["-m", "qprobe", "version"]])
def test_the_package_can_be_run_and_says_its_version(words):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    assert __version__ in done.stdout.splitlines()[0]
