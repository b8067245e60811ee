"""Defaults of options: the user's config.toml, and a CCA_* variable for every option.

A key of the file is an option's long name without dashes. At the top it holds for every command
that has the option; in a table named after a command, for that command alone:

    model = "~/models/llama"
    [ask]
    read = "lexical"
    [docs.ls]
    json = true

Precedence: command line, variable, table of the command, table of its group, top of the file,
built-in default. The parser itself takes the values in, as its defaults, and checks them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cca_cli.errors import UsageError

__all__ = ["Settings", "config_file", "name_variables", "options_of", "read_settings"]

# What a file or a variable must not decide: these remove things, end the program, or say what one
# call is about.
_ONLY_TYPED = frozenset({
    "all", "continue", "dry-run", "force", "help", "install-completion", "map", "question",
    "questions", "show-completion", "version", "yes",
})  # fmt: skip
# Settings that are no option of any command, by the variable that the program reads.
VARIABLES = {
    "cache-dir": "CCA_CACHE_DIR",
    "library-size": "CCA_LIBRARY_SIZE",
    "log": "CCA_LOG",
}
_ALIASES = {"summarize": "summarise"}

Path_ = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file says.

    Attributes:
        file: The file, or None if there is none.
        defaults: Values by parameter name, nested by command: what the parser calls a default map.
        origins: The same flat, by command and parameter name, with the table each stands in.
        variables: Values of settings that are no options, by variable.
    """

    file: Path | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    origins: dict[tuple[Path_, str], tuple[Any, str]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


def config_file() -> Path:
    """Return where the file is looked for; it need not exist.

    CCA_CONFIG names it; else it is config.toml in CCA_HOME; else in the directory that the
    platform gives programs for this.
    """
    if own := os.environ.get("CCA_CONFIG"):
        return Path(own).expanduser().absolute()
    if home := os.environ.get("CCA_HOME"):
        return Path(home).expanduser().absolute() / "config.toml"
    # Not needed with either variable set.
    from platformdirs import user_config_path

    return user_config_path("cca", appauthor=False) / "config.toml"


def options_of(command: Any, path: Path_ = ()) -> Iterator[tuple[Path_, str, Any]]:
    """Go through the options that may be set: the command's names, the long name, the parameter.

    Args:
        command: The parser's root command, or one below it.
        path: Names of the commands down to it.
    """
    for parameter in command.params:
        name = long_name(parameter)
        if name is not None and name not in _ONLY_TYPED:
            yield path, name, parameter
    for name, child in getattr(command, "commands", {}).items():
        yield from options_of(child, (*path, name))


def long_name(parameter: Any) -> str | None:
    """Return "max-new-tokens" for --max-new-tokens; None for an argument."""
    if parameter.param_type_name != "option":
        return None
    names = [name[2:] for name in parameter.opts if name.startswith("--")]
    return names[0] if names else None


def variable_of(name: str) -> str:
    """Return the variable of an option: CCA_MAX_NEW_TOKENS for max-new-tokens."""
    return "CCA_" + re.sub(r"\W", "_", name).upper()


def name_variables(command: Any) -> None:
    """Let every option be set by a variable; those that name their own keep it."""
    for _, name, parameter in options_of(command):
        if parameter.envvar is None:
            parameter.envvar = variable_of(name)
            # Said once on the manual's page, not at each of two hundred options.
            parameter.show_envvar = False


def read_settings(command: Any) -> Settings:
    """Read the user's file.

    Args:
        command: The parser's root command, which knows what options there are.

    Raises:
        UsageError: If the file is not TOML, names what there is not, or is named by CCA_CONFIG
            and missing.
    """
    file = config_file()
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        if os.environ.get("CCA_CONFIG"):
            raise UsageError(
                f"{file}: no such file, and CCA_CONFIG names it", hint="unset CCA_CONFIG"
            ) from None
        return Settings()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{file}: {reason}", hint="CCA_CONFIG=FILE names another") from error
    import tomllib

    try:
        table = tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{file}: not valid TOML ({error})", hint='a line is NAME = "text", or a number or true'
        ) from error
    settings = Settings(file=file)
    options = list(options_of(command))
    _take_variables(settings, table, options)
    _take(settings, table, (), options)
    for (path, parameter), (value, _) in settings.origins.items():
        level = settings.defaults
        for name in path:
            level = level.setdefault(name, {})
        level[parameter] = value
    return settings


def _take_variables(
    settings: Settings, table: dict[str, Any], options: list[tuple[Path_, str, Any]]
) -> None:
    names = {name for _, name, _ in options}
    for name, variable in VARIABLES.items():
        key = next((key for key in table if key.replace("_", "-") == name), None)
        if key is not None and name not in names:
            value = table.pop(key)
            if isinstance(value, bool):
                value = int(value)
            settings.variables[variable] = os.path.expanduser(str(value))


def _take(
    settings: Settings,
    table: Mapping[str, Any],
    prefix: Path_,
    options: list[tuple[Path_, str, Any]],
) -> None:
    """Take over a table, then those inside it, which overrule it."""
    below = [
        (path, name, parameter)
        for path, name, parameter in options
        if _canonical(path[: len(prefix)]) == prefix
    ]
    where = f"[{'.'.join(prefix)}]" if prefix else "top"
    inner = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if isinstance(value, dict):
            inner[key] = value
            continue
        fitting = [(path, parameter) for path, found, parameter in below if found == name]
        if not fitting:
            raise _unknown(settings, key, prefix, sorted({found for _, found, _ in below}))
        for path, parameter in fitting:
            settings.origins[path, parameter.name] = (_value(value, parameter), where)
    for key, value in inner.items():
        commands = {
            _canonical(path)[len(prefix)] for path, _, _ in below if len(path) > len(prefix)
        }
        if key not in commands:
            raise _unknown(settings, f"[{key}]", prefix, sorted(commands))
        _take(settings, value, (*prefix, key), options)


def _canonical(path: Path_) -> Path_:
    return tuple(_ALIASES.get(name, name) for name in path)


def _value(value: Any, parameter: Any) -> Any:
    """Return a value as the parser takes it, "~" spelt out as a shell does."""
    if parameter.multiple and not isinstance(value, list):
        value = [value]
    if isinstance(value, list):
        return [_value(item, _Single) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


class _Single:
    multiple = False


def _unknown(settings: Settings, key: str, prefix: Path_, known: list[str]) -> UsageError:
    import difflib

    of = " ".join(("cca", *prefix))
    name = key.strip("[]").replace("_", "-")
    if name in _ONLY_TYPED:
        return UsageError(
            f"{settings.file}: {key} can only be given on the command line", hint="remove the line"
        )
    close = difflib.get_close_matches(name, known, n=1)
    what = "command" if key.startswith("[") else "option"
    return UsageError(
        f"{settings.file}: {key} is no {what} of {of}",
        hint=f"did you mean {close[0]}?" if close else f"{of} --help lists them",
    )
