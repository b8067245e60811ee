"""``cca config``: the settings in effect, and where each comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from cca_cli.console import Console
from cca_cli.errors import UsageError
from cca_cli.options import DebugOpt, JsonlOpt, JsonOpt, QuietOpt, VerboseOpt

app = typer.Typer(
    help="Show the settings in effect, and where they come from.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

# An option that fewer commands share is shown with its command alone.
_SHARED = 3


@app.command("show")
def show(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="Show all options of this command: docs ls."),
    ] = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.")
    ] = False,
    json: JsonOpt = False,
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Show the settings in effect, and where they come from.

    Without COMMAND: those that commands share, and those that you have set. A variable beats the
    file, and an option on the command line beats both.

    \b
    Examples:
      cca config show --origin
      cca config show ask --json | jq '.settings[] | select(.origin != "default")'
    """
    console = Console.of(ctx)
    rows = [*_settings(ctx, tuple(command or ()))]
    if not command:
        rows = [*_variables(ctx), *rows]
    columns = ("command", "option", "value", "origin") if origin else ("command", "option", "value")
    if console.human:
        rows = [{**row, "value": _shown(row["value"])} for row in rows]
    console.listing("settings", rows, columns)


@app.command("path")
def path(
    ctx: typer.Context,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Print where the config file is, or would be.

    \b
    Examples:
      cca config path
      mkdir -p "$(dirname "$(cca config path)")" && ${EDITOR:-vi} "$(cca config path)"
    """
    from cca_cli.settings import config_file

    console = Console.of(ctx)
    file = config_file()
    if console.human:
        console.result(str(file))
    else:
        console.json({"path": str(file), "exists": file.is_file()})


def _settings(ctx: typer.Context, wanted: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    from cca_cli.settings import options_of

    by_name: dict[str, list[dict[str, Any]]] = {}
    for place, name, parameter in options_of(ctx.find_root().command):
        if place[:1] == ("summarize",) or parameter.hidden:
            continue
        row = {"command": " ".join(place), "option": name, **_effective(ctx, place, parameter)}
        by_name.setdefault(name, []).append(row)
    if wanted:
        rows = [
            row for rows in by_name.values() for row in rows if row["command"] == " ".join(wanted)
        ]
        if not rows:
            raise UsageError(f"cca {' '.join(wanted)}: no such command", hint="cca --help")
        yield from rows
        return
    for rows in by_name.values():
        alike: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            alike.setdefault(repr((row["value"], row["origin"])), []).append(row)
        for group in alike.values():
            if len(rows) >= _SHARED or group[0]["origin"] != "default":
                commands = "all" if len(alike) == 1 else ", ".join(row["command"] for row in group)
                yield {**group[0], "command": commands}


def _effective(ctx: typer.Context, place: tuple[str, ...], parameter: Any) -> dict[str, Any]:
    """Return an option's value where the command line says nothing, and its origin."""
    names = parameter.envvar if isinstance(parameter.envvar, list) else [parameter.envvar]
    for name in filter(None, names):
        if os.environ.get(name):
            return {"value": os.environ[name], "origin": f"variable {name}"}
    settings = Console.of(ctx).settings
    found = settings.origins.get((place, parameter.name)) if settings else None
    if settings and found:
        return {"value": found[0], "origin": f"{settings.file} {found[1]}"}
    default = parameter.default
    plain = default is None or isinstance(default, (bool, int, float, str, list))
    return {"value": default if plain else str(default), "origin": "default"}


def _shown(value: Any) -> str:
    """Write a value as the file has it."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _variables(ctx: typer.Context) -> Iterator[dict[str, Any]]:
    """Go through the settings that are no options of a command."""
    from cca_cli.settings import VARIABLES

    settings = Console.of(ctx).settings
    for name, variable in {"home": "CCA_HOME", **VARIABLES}.items():
        value = os.environ.get(variable) or None
        origin = f"variable {variable}" if value else "default"
        if settings and value and settings.variables.get(variable) == value:
            origin = f"{settings.file} top"
        yield {"command": "all", "option": name, "value": value, "origin": origin}
