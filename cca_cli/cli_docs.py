"""Writes docs/cli.md from the app's own help texts: ``python -m cca_cli.cli_docs > docs/cli.md``.

A test holds the file equal to what this makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from cca_cli.app import app
from cca_cli.model_loading import DEFAULT_GROUP_SIZE, DEFAULT_MODEL, DEFAULT_WINDOW

__all__ = ["cli_reference"]

_WIDTH = 96

_INTRODUCTION = f"""\
# Command line

<!-- Made by `python -m cca_cli.cli_docs > docs/cli.md`; change the help texts instead. -->

The first command reads a book, if the library does not have it, and answers with page numbers:

    cca ask book.pdf "Who inherits the estate?"

Results go to stdout and everything else to stderr; `--json` prints one object, `--jsonl` one
object per line. The default model is `{DEFAULT_MODEL}`, with groups of {DEFAULT_GROUP_SIZE}
tokens and a window of {DEFAULT_WINDOW:,}.

## Errors

An error is two lines on stderr, what is wrong and what to do about it, and an exit code (see
below). With `--json` or `--jsonl` it is `{{"error": {{"code", "message", "hint"}}}}` on stderr.

## Environment

| variable | meaning |
|---|---|
| `CCA_HOME` | directory for everything that cca keeps |
| `CCA_CACHE_DIR` | directory for models and library; wins over `CCA_HOME` |
| `CCA_CONFIG` | file of defaults, TOML; `cca config path` says where it is otherwise |
| `CCA_MODEL`, `CCA_PASSAGES`, ... | default of the option of that name; every option has one |
| `CCA_PDF_PASSWORD_FILE` | file whose first line opens locked PDFs |
| `CCA_DEBUG` | 1 shows tracebacks |
| `NO_COLOR`, `FORCE_COLOR` | colour never, or always; `NO_COLOR` wins |

The command line beats a variable, a variable beats the file. `cca config show --origin` says where
every value comes from; [Scripts](scripting.md) has an example of the file, and [Python](python.md)
the same commands as functions.

## The library

A memory is the document in another form: the library holds its text, its tokens and what the
model made of them, in directories that only you may enter. `cca docs rm DOC` removes all of it,
`--cache off` leaves nothing behind, and `cca docs ls` shows what is there. A locked document that
has been read once opens from the library without its password.

A memory is used only if everything it depends on is the same: the file's bytes, the readers and
their versions, the pages, the model's weights, tokenizer and settings, the prompt. Otherwise the
document is read again and cca says why. Reading that was interrupted continues where it stopped.
"""


def cli_reference() -> str:
    """Return the text of docs/cli.md."""
    parts = [_INTRODUCTION]
    for name, help_text in _helps(typer.main.get_command(app), "cca", None):
        parts.append(f"## {name}\n\n```text\n{help_text}\n```\n")
    return "\n".join(parts)


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.make_context(
        name.split()[-1], [], parent=parent, resilient_parsing=True, terminal_width=_WIDTH
    )
    lines = command.get_help(context).splitlines()
    yield name, "\n".join(line.rstrip() for line in lines).strip()
    for child in getattr(command, "commands", {}).values():
        if not child.hidden:
            yield from _helps(child, f"{name} {child.name}", context)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(cli_reference())
