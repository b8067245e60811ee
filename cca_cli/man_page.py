"""Writes the manual page from the app's own help texts: ``python -m cca_cli.man_page > cca.1``.

The page is in man(7), which every man knows. tests/test_man_page.py holds man/cca.1, which pip
installs, equal to what this makes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from cca_cli import __version__
from cca_cli.app import app

__all__ = ["manual_page"]

_DESCRIPTION = """\
.B cca
reads documents far longer than a model's trained context, on this machine, answers questions over
them with page citations, summarises them, and shows what that costs beside standard attention.
A document is read once; what the model made of it is kept in a library.
.PP
Results go to standard output and everything else to standard error."""

_ENVIRONMENT = (
    ("CCA_OPTION", "default of the option of that name, such as CCA_MODEL or CCA_PASSAGES"),
    ("CCA_HOME", "directory of everything that cca keeps, the configuration file included"),
    ("CCA_CACHE_DIR", "directory of models and library; wins over CCA_HOME"),
    ("CCA_CONFIG", "the configuration file; /dev/null for none"),
    ("CCA_LIBRARY_SIZE", "what the library may hold, such as 20GB"),
    ("CCA_LOG", "0 keeps no log of questions"),
    ("CCA_WARM", "off passes the process of cca warm by"),
    ("CCA_DEBUG", "1 shows tracebacks"),
    ("NO_COLOR, FORCE_COLOR", "colour never, or always; NO_COLOR wins"),
)
_FILES = (
    ("~/.config/cca/config.toml", "defaults of options; cca config path says where it is"),
    ("~/.cache/cca", "models and library; cca docs path and cca models path say where"),
)


def manual_page() -> str:
    """Return the manual page, in man(7)."""
    root = typer.main.get_command(app)
    lines = [
        f'.TH CCA 1 "" "cca {__version__}" "User Commands"',
        ".SH NAME",
        f"cca \\- {_escape(root.help or '').rstrip('.').lower()}",
        ".SH SYNOPSIS",
        ".B cca",
        r"[\fIoptions\fR] \fIcommand\fR [\fIarguments\fR]",
        ".SH DESCRIPTION",
        _DESCRIPTION,
        ".SH OPTIONS",
        *_options(root),
        ".SH COMMANDS",
        *_commands(root, "cca"),
        ".SH EXIT STATUS",
        *_exit_codes(str(getattr(root, "epilog", "") or "")),
        ".SH ENVIRONMENT",
        *_definitions(_ENVIRONMENT),
        ".SH FILES",
        *_definitions(_FILES),
        ".SH SEE ALSO",
        ".BR jq (1),",
        ".BR ocrmypdf (1)",
    ]
    return "\n".join(lines) + "\n"


def _commands(parent: Any, name: str) -> Iterator[str]:
    for child in parent.commands.values():
        if child.hidden:
            continue
        group = bool(getattr(child, "commands", None))
        # A group is a section of its own only if it does something by itself.
        if not group or any(p.name != "help" for p in child.params):
            pieces = child.collect_usage_pieces(_context(child))
            usage = "" if group else " ".join(piece for piece in pieces if piece != "[OPTIONS]")
            yield f".SS {_escape(f'{name} {child.name} {usage}'.strip())}"
            yield from _prose(child.help or "")
            yield from _options(child)
        if group:
            yield from _commands(child, f"{name} {child.name}")


def _context(command: Any) -> Any:
    return command.make_context(command.name, [], resilient_parsing=True)


def _prose(text: str) -> Iterator[str]:
    """Set paragraphs; those after a \\b line keep their lines, as in the help."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.splitlines()
        if lines[0].strip() == "\b":
            yield from (".PP", ".nf", *(_escape(line) for line in lines[1:]), ".fi")
        else:
            yield from (".PP", _escape(" ".join(line.strip() for line in lines)))


def _options(command: Any) -> Iterator[str]:
    context = _context(command)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if parameter.param_type_name != "option" or record is None:
            continue
        names, said = record
        yield from (".TP", f".B {_escape(names)}", _escape(" ".join(said.split())))


def _exit_codes(epilog: str) -> Iterator[str]:
    for line in epilog.partition("\b")[2].splitlines():
        code, _, meaning = line.strip().partition("  ")
        if meaning:
            yield from (".TP", f".B {_escape(code)}", _escape(meaning.strip()))


def _definitions(rows: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for name, meaning in rows:
        yield from (".TP", f".B {_escape(name)}", _escape(meaning))


def _escape(text: str) -> str:
    """Write a text so that troff sets it as it is."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    return re.sub(r"^(?=[.'])", r"\\&", text)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(manual_page())
