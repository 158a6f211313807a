"""The command line: the frame around the subcommands.

Exit codes: 0 done, 1 findings at or above ``--fail-on``, 2 bad usage or input, 3 a defect of ours.
An error is one sentence on stderr; ``--debug`` (or ``QPROBE_DEBUG=1``) adds the traceback.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from qprobe.cli import export, list_, version
from qprobe.errors import QprobeError

# Typer carries its own copy of click from 0.26 on and uses the installed one before: either way its
# usage errors share this base, which Typer itself does not name.
_UsageError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

USAGE = 2
DEFECT = 3
INTERRUPTED = 130

app = typer.Typer(
    name="qprobe",
    help="Find which layer, which operand and which recipe breaks a 4-bit model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(list_.app, name="list")
app.command("export")(export.export_)
app.command("version")(version.version)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options that every subcommand shares."""
    if debug:
        os.environ["QPROBE_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        result = app(args=arguments, prog_name="qprobe", standalone_mode=False)
    except _UsageError as error:
        return _refuse(error, _sentence(error))
    except QprobeError as error:
        return _refuse(error, str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("qprobe: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away (`qprobe list recipes | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  (the outermost frame: reported, exit code 3)
        return _defect(error)
    return result if isinstance(result, int) else 0


def run() -> None:
    """Entry point of the ``qprobe`` script."""
    sys.exit(main())


def _debugging() -> bool:
    return bool(os.environ.get("QPROBE_DEBUG"))


def _sentence(error: Exception) -> str:
    message = str(getattr(error, "message", error)).strip()
    return f"{message} Try 'qprobe --help'."


def _refuse(error: Exception, message: str) -> int:
    if _debugging():
        raise error
    print(f"qprobe: {message}", file=sys.stderr)
    return USAGE


def _defect(error: Exception) -> int:
    if _debugging():
        raise error
    print(
        f"qprobe: a defect of qprobe: {type(error).__name__}: {error}; "
        "run again with --debug and report the traceback.",
        file=sys.stderr,
    )
    return DEFECT
