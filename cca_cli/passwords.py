"""Passwords of locked documents: from a file, or typed on a terminal; never from an option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cca_cli.console import Console
from cca_cli.errors import InputError

__all__ = ["password_source"]


def password_source(console: Console, file: Path | None, name: str) -> Callable[[], str | None]:
    """Return what a reader calls for a document's password.

    Args:
        console: Where to ask.
        file: File whose first line is the password, or None to ask on the terminal.
        name: Name of the document, for the question.
    """

    def from_file() -> str | None:
        assert file is not None
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{file}: the password file cannot be read", hint=f"ls -l {file}"
            ) from error
        return lines[0] if lines else ""

    if file is not None:
        return from_file
    return lambda: console.ask_secret(f"password of {name}: ")
