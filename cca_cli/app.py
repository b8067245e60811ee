"""The Typer app and the program's entry point.

`main` is the only place that turns errors into exit codes; the commands raise and let go.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from cca_cli import __version__
from cca_cli.command_tree import command_tree, first_word, whole_tree
from cca_cli.commands import config, docs, docs_keep, log, warm
from cca_cli.commands import models as model_commands
from cca_cli.commands.adapt import adapt
from cca_cli.commands.ask import ask
from cca_cli.commands.bench import bench
from cca_cli.commands.chat import chat
from cca_cli.commands.count import count
from cca_cli.commands.doctor import doctor
from cca_cli.commands.eval import evaluate
from cca_cli.commands.ingest import ingest
from cca_cli.commands.summarise import summarise
from cca_cli.commands.text import text
from cca_cli.console import Console
from cca_cli.errors import CLIError, ExitCode
from cca_cli.failures import explain
from cca_cli.formatting import strip_control
from cca_cli.options import DebugOpt, QuietOpt, VerboseOpt
from cca_cli.streams import close_stdout, close_streams, prepare_streams
from cca_cli.usage_errors import form_of, usage_failure

if TYPE_CHECKING:
    import logging

    from cca_models.engine import LanguageModel

__all__ = ["app", "main", "run", "run_streams"]

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
app.command()(chat)
app.command()(ingest)
app.command()(summarise)
app.command(name="summarize", hidden=True)(summarise)
app.command()(count)
app.command()(text)
app.command()(bench)
app.command()(adapt)
app.command(name="eval")(evaluate)
docs_keep.register(docs.app)
app.add_typer(docs.app, name="docs")
app.add_typer(log.app, name="log")
app.add_typer(model_commands.app, name="models")
app.add_typer(config.app, name="config")
app.add_typer(warm.app, name="warm")
app.command()(doctor)


def main() -> NoReturn:
    """Run the program on the process's arguments, here or in the warm process, and exit."""
    from cca_cli.threads import calm_threads
    from cca_cli.warm.client import hand_over

    prepare_streams()
    calm_threads()
    args = sys.argv[1:]
    code = hand_over(args, first_word(args))
    sys.exit(run_streams(args) if code is None else code)


def run_streams(args: Sequence[str], *, models: dict[Any, LanguageModel] | None = None) -> int:
    """Run one command line as a process of its own does: its signals, its standard streams.

    Args:
        args: The arguments after the program's name.
        models: Models that are loaded already, by what they were asked for.

    Returns:
        The exit code; nothing is left in a buffer.
    """
    from cca_cli.interrupts import terminate_with_exit_code

    terminate_with_exit_code()
    prepare_streams()
    code = run(args, models=models)
    if not close_streams():
        code = code or ExitCode.RESOURCES
    return code


def run(args: Sequence[str], *, models: dict[Any, LanguageModel] | None = None) -> int:
    """Run one command line.

    Args:
        args: The arguments after the program's name.
        models: Models that are loaded already, by what they were asked for.

    Returns:
        The exit code; errors have been written to stderr.
    """
    console = Console()
    console.models = models
    _prepare_libraries()
    # Arguments that cannot be parsed must be complained of in the right form, too.
    options = list(args[: args.index("--")] if "--" in args else args)
    console.debug = console.debug or "--debug" in options
    command = command_tree(app, args)
    try:
        defaults = _apply_settings(command, args, console)
        outcome = command.main(
            args=list(args),
            prog_name="cca",
            standalone_mode=False,
            obj=console,
            default_map=defaults,
        )
        return outcome if isinstance(outcome, int) else ExitCode.OK
    except SystemExit as stop:
        if _is_broken_pipe(stop.__context__):
            close_stdout()
            return ExitCode.OK
        return stop.code if isinstance(stop.code, int) else ExitCode.INTERNAL
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if _is_broken_pipe(error):
            close_stdout()
            return ExitCode.OK
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            return ExitCode.USAGE
        console.mode = form_of(options) or console.mode
        if console.debug:
            _print_traceback(error)
        failure = usage_failure(error) or explain(error)
        console.error(failure)
        return failure.code


def _apply_settings(command: Any, args: Sequence[str], console: Console) -> dict[str, Any]:
    """Name the variables of the options, and return what the user's file makes their defaults."""
    from cca_cli.settings import config_file, name_variables, read_settings

    name_variables(command)
    try:
        # A file may set what other commands than this one have.
        known = whole_tree(app) if config_file().exists() else command
        console.settings = read_settings(known)
    except CLIError:
        # A broken file must not stand in the way of help, or of finding it.
        asks = {"--help", "-h", "--version"} & set(args) or list(args[:2]) == ["config", "path"]
        if asks or "_CCA_COMPLETE" in os.environ or not args:
            return {}
        raise
    for variable, value in console.settings.variables.items():
        if not os.environ.get(variable):
            os.environ[variable] = value
    return console.settings.defaults


def _is_broken_pipe(error: BaseException | None) -> bool:
    return isinstance(error, BrokenPipeError)


def _prepare_libraries() -> None:
    """Keep other libraries' bars and notices off the terminal; our own are enough."""
    import logging

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_safe_formatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def _safe_formatter() -> logging.Formatter:
    import logging

    class Formatter(logging.Formatter):
        """Messages of libraries, which may quote a document."""

        def format(self, record: logging.LogRecord) -> str:
            return strip_control(super().format(record))

    return Formatter("cca: %(message)s")


def _print_traceback(error: BaseException) -> None:
    import platform
    import traceback

    sys.stderr.write(strip_control("".join(traceback.format_exception(error))))
    sys.stderr.write(f"cca {__version__}, Python {platform.python_version()}\n")
