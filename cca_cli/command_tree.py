"""The parser's tree of commands, only as much of it as a command line needs.

Typer takes about half a millisecond for every option, and there are hundreds: all of them would be
half of what `cca --help` takes.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import typer
import typer.main

__all__ = ["command_tree", "first_word", "whole_tree"]

# Options before the command that take a value.
_WITH_VALUE = frozenset({"--color"})
# Commands that look at all the others.
_LOOK_AROUND = frozenset({"config"})


def whole_tree(app: typer.Typer) -> Any:
    """Build all commands."""
    return typer.main.get_command(app)


def command_tree(app: typer.Typer, args: Sequence[str]) -> Any:
    """Build what a command line needs.

    Args:
        app: All commands.
        args: The arguments after the program's name.

    Returns:
        The root command: with the one command that is named; or with all, but without their
        options, where only their names are shown; or whole, where that cannot be told.
    """
    if "_CCA_COMPLETE" in os.environ:
        return whole_tree(app)
    word = first_word(args)
    names = {info.name or _name_of(info) for info in app.registered_commands}
    names |= {info.name for info in app.registered_groups if info.name}
    part = typer.Typer(**_settings(app))
    part.registered_callback = app.registered_callback
    if word is None:
        for info in app.registered_commands:
            if not info.hidden:
                part.command(info.name or _name_of(info))(_outline(info.callback))
        for group in app.registered_groups:
            part.add_typer(typer.Typer(help=_help_of(group.typer_instance)), name=group.name)
        return typer.main.get_command(part)
    if word not in names or word in _LOOK_AROUND:
        return whole_tree(app)
    part.registered_commands = [
        info for info in app.registered_commands if (info.name or _name_of(info)) == word
    ]
    part.registered_groups = [info for info in app.registered_groups if info.name == word]
    return typer.main.get_command(part)


def first_word(args: Sequence[str]) -> str | None:
    """Return the command's name; None if there is none."""
    left = iter(args)
    for argument in left:
        if argument in _WITH_VALUE:
            next(left, None)
        elif not argument.startswith("-"):
            return argument
    return None


def _name_of(info: Any) -> str:
    return str(info.callback.__name__).replace("_", "-")


def _outline(callback: Any) -> Any:
    """Return a function with the documentation of another and no arguments."""

    def outline() -> None:
        """Stand in."""

    outline.__doc__ = callback.__doc__
    return outline


def _help_of(group: typer.Typer | None) -> str | None:
    """Return a group's text: its own, or that of the function that runs without a command."""
    if group is None:
        return None
    if isinstance(group.info.help, str):
        return group.info.help
    callback = group.registered_callback and group.registered_callback.callback
    return inspect.getdoc(callback) if callback else None


def _settings(app: typer.Typer) -> dict[str, Any]:
    info = app.info
    return {
        "name": info.name,
        "help": info.help,
        "epilog": info.epilog,
        "no_args_is_help": info.no_args_is_help,
        "context_settings": info.context_settings,
        "rich_markup_mode": app.rich_markup_mode,
        "pretty_exceptions_enable": app.pretty_exceptions_enable,
    }
