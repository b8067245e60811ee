"""What the arguments of ``cca ask`` mean: documents, and perhaps a question behind them."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Sequence

from cca_cli.errors import UsageError

__all__ = ["once", "split_arguments", "unique_names"]

# "report.pdf", "shelf/report": meant as a file, whether it is there or not.
_LIKE_A_FILE = re.compile(r"\S*(?:\.[A-Za-z]\w{0,7}|[/\\]\S*)")


def split_arguments(
    arguments: Sequence[str], *, asked_elsewhere: bool, continued: bool = False
) -> tuple[list[str], str | None]:
    """Tell documents from the question that may stand behind them.

    The last argument is the question unless it is a file. Standard input is the document if a
    question stands alone and something is piped in.

    Args:
        arguments: As given.
        asked_elsewhere: Whether an option holds the questions.
        continued: Whether the documents may be those of an earlier call.

    Returns:
        Paths, each once, and the question or None.

    Raises:
        UsageError: If there is no document, or nobody can tell what the last argument is.
    """
    given, question = list(arguments), None
    lone = len(given) == 1
    if given and not _is_file(given[-1]) and (continued or not lone):
        # "b.pdf", misspelt, is no question: it will be missed as a file.
        if not (asked_elsewhere and _LIKE_A_FILE.fullmatch(given[-1])):
            question = given.pop()
    elif lone and not asked_elsewhere and not _is_file(given[0]) and _has_piped_input():
        question, given = given[0], ["-"]
    if not given and not continued:
        raise UsageError(
            "no document was named", hint='cca ask FILE "your question"; - reads standard input'
        )
    if question is None and len(given) > 1 and not asked_elsewhere:
        raise UsageError(
            f"no question was asked: {given[-1]} is a file",
            hint=f'cca ask {" ".join(given)} -Q "your question"',
        )
    return once(given), question


def _is_file(text: str) -> bool:
    if text == "-" or os.path.exists(text):
        return True
    # A pattern that matches something; the question mark of a question matches nothing.
    return glob.has_magic(text) and next(glob.iglob(text, recursive=True), None) is not None


def _has_piped_input() -> bool:
    try:
        return not sys.stdin.isatty() and sys.stdin.readable()
    except (AttributeError, ValueError):  # closed, or no stream at all
        return False


def once(paths: Sequence[str]) -> list[str]:
    """Leave out paths that were named before."""
    kept: dict[str, str] = {}
    for path in paths:
        kept.setdefault(path if path == "-" else os.path.abspath(path), path)
    return list(kept.values())


def unique_names(paths: Sequence[str]) -> list[str]:
    """Name files by as much of the ends of their paths as tells them apart.

    Args:
        paths: Absolute, or "-"; each once.

    Returns:
        For each "book.pdf"; "may/book.pdf" and "june/book.pdf" where two are called the same.
    """
    parts = [path.replace("\\", "/").split("/") for path in paths]
    names = []
    for own in parts:
        depth = 1
        while depth < len(own) and sum(other[-depth:] == own[-depth:] for other in parts) > 1:
            depth += 1
        names.append("stdin" if own == ["-"] else "/".join(own[-depth:]))
    return names
