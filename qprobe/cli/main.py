"""The command line: the frame around the subcommands.

Exit codes: 0 done, 1 findings at or above ``--fail-on``, 2 bad usage or input, 3 a defect of ours,
130 interrupted. A subcommand returns its exit code, or nothing for 0. An error is one sentence on
stderr; ``--debug`` (or ``QPROBE_DEBUG=1``) puts the traceback before it.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Annotated, cast

import typer

from qprobe import __version__
from qprobe.cli import (
    analyze,
    compare,
    dashboard,
    diff,
    export,
    list_,
    plan,
    sweep,
    train,
    version,
    watch,
)
from qprobe.errors import QprobeError

# Typer carries its own copy of click from 0.26 on and uses the installed one before: either way its
# usage errors share this base, which Typer itself does not name.
_UsageError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

USAGE = 2
DEFECT = 3
INTERRUPTED = 130
#: Letters of a path that a message shows.
_PATH = 200

app = typer.Typer(
    name="qprobe",
    help="Find which layer, which operand and which recipe breaks a 4-bit model.",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# In the order in which --help names them: what people come for, training, then files and names.
app.command("analyze")(analyze.analyze)
app.command("dashboard")(dashboard.dashboard)
app.command("watch")(watch.watch)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.command("compare")(compare.compare)
app.command("diff")(diff.diff)
app.command("export")(export.export_)
app.add_typer(list_.app, name="list")
app.command("version")(version.version)


@dataclass(slots=True)
class _Report:
    """How errors are shown in one run of the command line."""

    debug: bool

    def show(self, error: BaseException, sentence: str, code: int) -> int:
        if self.debug:
            traceback.print_exception(error)
        print(f"qprobe: {' '.join(sentence.split())}", file=sys.stderr)
        return code


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version of qprobe and stop.")
    ] = False,
) -> None:
    """Options that every subcommand shares."""
    if show_version:
        typer.echo(__version__)
        raise typer.Exit
    if debug:
        cast("_Report", context.obj).debug = True
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    report = _Report(debug=os.environ.get("QPROBE_DEBUG", "0") not in {"", "0"})
    try:
        return _invoke(sys.argv[1:] if arguments is None else list(arguments), report)
    except _UsageError as error:
        return report.show(error, _sentence(error), USAGE)
    except QprobeError as error:
        return report.show(error, str(error), USAGE)
    except (KeyboardInterrupt, typer.Abort) as error:
        return report.show(error, "interrupted.", INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe went away (`qprobe list recipes | head`): not an error of ours. What
        # is still buffered has to go somewhere when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return report.show(error, _refused(error), USAGE)
    except Exception as error:  # noqa: BLE001  (the outermost frame: reported, exit code 3)
        return report.show(error, _defect(error), DEFECT)


def run() -> None:
    """Entry point of the ``qprobe`` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that cannot show a letter gets a question mark, not an error.
            stream.reconfigure(errors="replace")
    sys.exit(main())


def _invoke(arguments: list[str], report: _Report) -> int:
    # Not `app(...)`: that turns a broken pipe into exit code 1, which here means findings.
    command = typer.main.get_command(app)
    try:
        with command.make_context("qprobe", arguments, obj=report) as context:
            result = command.invoke(context)
    except typer.Exit as done:
        result = done.exit_code
    print(end="", flush=True)  # a broken pipe shows here, not while the interpreter shuts down
    return result if isinstance(result, int) else 0


def _sentence(error: Exception) -> str:
    message = str(getattr(error, "format_message", error.__str__)()).strip()
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "qprobe")
    return f"{message.rstrip('.')}. Try '{command} --help'."


def _refused(error: OSError) -> str:
    """What the system would not do: a path too long, a disk that is full, rights that lack."""
    where = "" if error.filename is None else f" at {_short(str(error.filename))}"
    return (
        f"{error.strerror or error}{where}; check the path, its rights and the space that is left."
    )


def _short(path: str) -> str:
    return path if len(path) <= _PATH else f"{path[:_PATH]}…"


def _defect(error: Exception) -> str:
    return (
        f"a defect of qprobe: {type(error).__name__}: {str(error).rstrip('.')}; "
        "run again with 'qprobe --debug' and report the traceback."
    )
