"""The Typer app and the program's entry point.

`main` is the only place that turns errors into exit codes; the commands raise and let go.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Literal, NoReturn

import typer
import typer.main

from cca_cli import __version__
from cca_cli.commands import docs, models
from cca_cli.commands.adapt import adapt
from cca_cli.commands.ask import ask
from cca_cli.commands.bench import bench
from cca_cli.commands.count import count
from cca_cli.commands.doctor import doctor
from cca_cli.commands.eval import evaluate
from cca_cli.commands.ingest import ingest
from cca_cli.commands.summarise import summarise
from cca_cli.console import Console
from cca_cli.errors import ExitCode
from cca_cli.failures import Failure, explain
from cca_cli.options import DebugOpt, QuietOpt, VerboseOpt

__all__ = ["app", "main", "run"]

_EPILOG = """Exit codes:

\b
  0  success (also when the reader of a pipe closes it)
  1  unexpected failure; --debug shows the traceback
  2  wrong usage
  3  the document does not contain the answer (only with --fail-if-not-found)
  4  input unreadable: missing, unsupported, damaged, locked, or without text
  5  too long for the model
  6  model missing or unusable, or the network is needed and not there
  7  out of memory, or disk full
  8  library entry missing or damaged where it was required (--cache require)
  9  some of several inputs failed
  130 / 143  interrupted / terminated; partial work is kept"""

app = typer.Typer(
    name="cca",
    help="Read very long documents and answer questions over them, with pages.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"cca {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    color: Annotated[
        Literal["auto", "always", "never"],
        typer.Option("--color", help="Colour; auto obeys NO_COLOR and the tty."),
    ] = "auto",
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Read very long documents and answer questions over them, with pages."""


app.command()(ask)
app.command()(ingest)
app.command()(summarise)
app.command(name="summarize", hidden=True)(summarise)
app.command()(count)
app.command()(bench)
app.command()(adapt)
app.command(name="eval")(evaluate)
app.add_typer(docs.app, name="docs")
app.add_typer(models.app, name="models")
app.command()(doctor)


def main() -> NoReturn:
    """Run the program on the process's arguments and exit."""
    from cca_cli.interrupts import terminate_with_exit_code

    terminate_with_exit_code()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
    sys.exit(code)


def run(args: Sequence[str]) -> int:
    """Run one command line.

    Args:
        args: The arguments after the program's name.

    Returns:
        The exit code; errors have been written to stderr.
    """
    console = Console()
    _prepare_libraries()
    # Arguments that cannot be parsed must be complained of in the right form, too.
    options = list(args[: args.index("--")] if "--" in args else args)
    console.debug = console.debug or "--debug" in options
    command = typer.main.get_command(app)
    try:
        outcome = command.main(args=list(args), prog_name="cca", standalone_mode=False, obj=console)
        return outcome if isinstance(outcome, int) else ExitCode.OK
    except SystemExit as stop:
        if _is_broken_pipe(stop.__context__):
            _close_stdout()
            return ExitCode.OK
        return stop.code if isinstance(stop.code, int) else ExitCode.INTERNAL
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if _is_broken_pipe(error):
            _close_stdout()
            return ExitCode.OK
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            return ExitCode.USAGE
        if "--json" in options:
            console.mode = "json"
        elif "--jsonl" in options:
            console.mode = "jsonl"
        if console.debug:
            _print_traceback(error)
        failure = _usage_failure(error) or explain(error)
        console.error(failure)
        return failure.code


def _usage_failure(error: BaseException) -> Failure | None:
    # Typer carries its own copy of click and keeps the usage errors' classes private.
    if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
        return Failure(code=ExitCode.INTERNAL, message="aborted") if _is_abort(error) else None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "cca"
    message = " ".join(error.format_message().split()).rstrip(".")
    return Failure(code=error.exit_code, message=message, hint=f"{command} --help")


def _is_abort(error: BaseException) -> bool:
    return isinstance(error, typer.Abort)


def _is_broken_pipe(error: BaseException | None) -> bool:
    return isinstance(error, BrokenPipeError)


def _close_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _prepare_libraries() -> None:
    """Keep other libraries' bars and notices off the terminal; our own are enough."""
    import logging

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(stream=sys.stderr, format="cca: %(message)s", level=logging.WARNING)


def _print_traceback(error: BaseException) -> None:
    import platform
    import traceback

    traceback.print_exception(error)
    sys.stderr.write(f"cca {__version__}, Python {platform.python_version()}\n")
