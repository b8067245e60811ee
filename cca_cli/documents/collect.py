"""Directories and patterns as lists of documents, each told by its content."""

from __future__ import annotations

import glob
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cca_cli.documents.source import HEAD_BYTES, Source
from cca_cli.errors import CLIError, InputError

__all__ = ["Collection", "collect"]

# What tools put into a folder rather than people.
_TOOLS = frozenset({"__pycache__", "node_modules", "CVS"})
MAX_FILES = 10_000


@dataclass(slots=True)
class Collection:
    """Documents that were found.

    Attributes:
        files: Paths, in the order of the arguments and by name within each.
        skipped: Files in directories that are no documents, and why.
    """

    files: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def collect(paths: Sequence[str]) -> Collection:
    """Replace directories by the documents in them, and patterns by the files they match.

    A directory is searched to the bottom; hidden files, links to directories and files that are
    no documents are left out. Files that were named are kept whatever they are.

    Args:
        paths: Files, directories, patterns ("shelf/**/*.pdf"), or "-".

    Raises:
        InputError: If a directory holds no document, a pattern matches nothing, or there are
            more than 10,000 files.
    """
    found = Collection()
    seen: set[str] = set()
    for path in paths:
        if os.path.isdir(path):
            _add(found, seen, _in_directory(path, found.skipped))
        elif path != "-" and not os.path.lexists(path) and glob.has_magic(path):
            _add(found, seen, _matching(path, found.skipped))
        else:
            # The same file named twice is the caller's own doing.
            found.files.append(path)
            seen.add(os.path.abspath(path))
    return found


def _add(found: Collection, seen: set[str], files: Sequence[str]) -> None:
    for file in files:
        if os.path.abspath(file) not in seen:
            seen.add(os.path.abspath(file))
            found.files.append(file)
    if len(found.files) > MAX_FILES:
        raise InputError(
            f"more than {MAX_FILES:,} documents were named", hint="take one folder at a time"
        )


def _in_directory(path: str, skipped: list[tuple[str, str]]) -> list[str]:
    files = []
    before = len(skipped)
    for file in _walk(path):
        reason = _why_not(file)
        if reason is None:
            files.append(file)
        else:
            skipped.append((file, reason))
        if len(files) > MAX_FILES:
            break
    if not files:
        files_in = len(skipped) - before
        raise InputError(
            f"{path}: is a directory without documents"
            + (f" ({files_in} files of other kinds)" if files_in else ""),
            hint=f"look into it: ls -R {shlex.quote(path)}",
        )
    return files


def _walk(path: str) -> Iterator[str]:
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in _TOOLS)
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(folder, name)


def _matching(pattern: str, skipped: list[tuple[str, str]]) -> list[str]:
    files: list[str] = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isfile(path):
            files.append(path)
        elif os.path.isdir(path) and "**" not in pattern:
            files += _in_directory(path, skipped)
    if not files:
        raise InputError(
            f"{pattern}: no file matches", hint="check the pattern with ls, outside of quotes"
        )
    return files


def _why_not(path: str) -> str | None:
    """Return why a file is no document, None if it may be one."""
    from cca_cli.documents.encodings import looks_binary
    from cca_cli.documents.formats import detect

    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return "not a file"
        with open(path, "rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if not head:
        return "empty"
    # The digest is taken when the document is read; here it would only cost time.
    source = Source(
        name=os.path.basename(path),
        path=os.path.abspath(path),
        shown=path,
        size=found.st_size,
        sha256="",
        head=head,
    )
    try:
        kind = detect(source)
    except CLIError as error:
        return error.message.removeprefix(f"{path}: ")
    return "binary data" if kind in ("text", "code", "markdown") and looks_binary(head) else None
