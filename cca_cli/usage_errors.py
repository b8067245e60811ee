"""Complaints of the command line's parser, as failures of ours, with the source of a bad value.

What cannot be parsed must be complained of in the right form, too: `form_of` looks for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import typer

from cca_cli.console import Console, Mode
from cca_cli.errors import ExitCode
from cca_cli.failures import Failure

__all__ = ["form_of", "usage_failure"]


def form_of(args: Sequence[str]) -> Mode | None:
    """Judge by arguments that nobody has parsed which form they ask for; None if they do not."""
    if "--json" in args:
        return "json"
    return "jsonl" if "--jsonl" in args else None


def usage_failure(error: BaseException) -> Failure | None:
    """Say what is wrong with the arguments; None if the error is of another kind."""
    # Typer carries its own copy of click and keeps the usage errors' classes private.
    if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
        return Failure(code=ExitCode.INTERNAL, message="aborted") if _is_abort(error) else None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "cca"
    message = " ".join(error.format_message().split()).rstrip(".")
    if extra := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        message = f"{extra[1]}: more arguments than {command} takes"
    if blamed := _blamed(error, context):
        return Failure(code=error.exit_code, message=f"{blamed}: {message}", hint="cca config show")
    return Failure(code=error.exit_code, message=message, hint=f"{command} --help")


def _blamed(error: BaseException, context: Any) -> str:
    """Name the file or the variable that a bad value comes from; empty if it was typed."""
    parameter = getattr(error, "param", None)
    if context is None or parameter is None:
        return ""
    source = context.get_parameter_source(parameter.name)
    if source is not None and source.name == "ENVIRONMENT":
        return str(parameter.envvar)
    if source is not None and source.name == "DEFAULT_MAP":
        settings = Console.of(context).settings
        return str(settings.file) if settings else ""
    return ""


def _is_abort(error: BaseException) -> bool:
    return isinstance(error, typer.Abort)
