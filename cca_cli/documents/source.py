"""Where a document's bytes come from: a file, a pipe or standard input."""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import shlex
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cca_cli.errors import InputError

__all__ = ["Source", "open_source"]

# A pipe has no size to ask for; this keeps an endless one from filling the memory.
STREAM_LIMIT = 1 << 30
HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The bytes of a document.

    Attributes:
        name: What to call it: the file name, or "stdin".
        path: Absolute path, or "-".
        shown: The path as the user wrote it, for messages.
        size: Bytes.
        sha256: Digest of the bytes, hex.
        head: The first 4 KiB.
        data: All bytes if they came through a pipe, else None: a file is read where it lies.
    """

    name: str
    path: str
    shown: str
    size: int
    sha256: str
    head: bytes
    data: bytes | None = None

    @property
    def suffix(self) -> str:
        """Return the name's extension in lower case, with the dot; empty if it has none."""
        return Path(self.name).suffix.lower() if self.path != "-" else ""

    @property
    def quoted(self) -> str:
        """Return the path ready to be pasted into a shell."""
        return shlex.quote(self.shown)

    def open(self) -> BinaryIO:
        """Return a seekable stream over the bytes, for the caller to close."""
        if self.data is not None:
            return io.BytesIO(self.data)
        return open(self.path, "rb")

    def read(self) -> bytes:
        """Return all bytes."""
        if self.data is not None:
            return self.data
        with self.open() as stream:
            return stream.read()


def open_source(path: str) -> Source:
    """Find a document and take its digest.

    Args:
        path: A file or pipe, or "-" for standard input.

    Raises:
        InputError: If it is missing, a directory, empty, or may not be read.
    """
    if path == "-":
        return _from_stream(sys.stdin.buffer, name="stdin", path="-", shown="-")
    try:
        return _from_path(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", hint=_nearby(path)) from None
    except PermissionError:
        raise InputError(
            f"{path}: permission denied", hint=f"chmod u+r {shlex.quote(path)}"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{path!r}: cannot be opened ({reason})", hint="check the path with ls -l"
        ) from error


def _from_path(path: str) -> Source:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise InputError(
            f"{path}: is a directory, not a file", hint=f"name one in it: ls {shlex.quote(path)}"
        )
    absolute = os.path.abspath(path)
    name = os.path.basename(absolute)
    with open(path, "rb") as stream:
        if not stat.S_ISREG(mode):
            return _from_stream(stream, name=name, path=absolute, shown=path)
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
    if not size:
        raise InputError(
            f"{path}: file is empty (0 bytes)", hint=f"fetch the file again, then: ls -l {path}"
        )
    return Source(name=name, path=absolute, shown=path, size=size, sha256=digest, head=head)


def _from_stream(stream: BinaryIO, *, name: str, path: str, shown: str) -> Source:
    data = stream.read(STREAM_LIMIT + 1)
    if not data:
        raise InputError(
            f"{name}: no data came through the pipe",
            hint="check the command before the pipe, or name a file instead of -",
        )
    if len(data) > STREAM_LIMIT:
        raise InputError(
            f"{name}: more than {STREAM_LIMIT >> 30} GiB came through the pipe",
            hint="save it to a file and name the file",
        )
    return Source(
        name=name,
        path=path,
        shown=shown,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        head=data[:HEAD_BYTES],
        data=data,
    )


def _nearby(path: str) -> str:
    folder = Path(path).parent
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return f"there is no directory {folder} either; check the path"
    close = difflib.get_close_matches(Path(path).name, names, n=1, cutoff=0.7)
    if close:
        return f"did you mean {shlex.quote(str(folder / close[0]))}?"
    return f"check the name: ls {shlex.quote(str(folder))}"
