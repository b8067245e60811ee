"""Where a document's bytes come from: a file, a pipe or standard input."""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cca_cli.errors import CLIError, InputError

__all__ = ["Source", "open_source"]

# A pipe has no size to ask for; this keeps an endless one from filling the memory.
STREAM_LIMIT = 1 << 30
# A file larger than this is a disk image or a hole; its digest alone would take minutes.
FILE_LIMIT = 8 << 30
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
        stamp: Of a file, what shows that it was written to or replaced since.
    """

    name: str
    path: str
    shown: str
    size: int
    sha256: str
    head: bytes
    data: bytes | None = None
    stamp: tuple[int, ...] | None = None

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
        try:
            return open(self.path, "rb")
        except OSError as error:
            raise self._changed() from error

    def read(self) -> bytes:
        """Return all bytes, those of the digest: what was added since is left out.

        Raises:
            InputError: If they are others by now.
        """
        if self.data is not None:
            return self.data
        with self.open() as stream:
            data = stream.read(self.size)
        if self.sha256 and hashlib.sha256(data).hexdigest() != self.sha256:
            raise self._changed()
        return data

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the bytes to be read piece by piece; they must be the same after the last one.

        Raises:
            InputError: If the file was written to or replaced since its digest was taken.
        """
        with self.open() as stream:
            try:
                yield stream
            except CLIError:
                # Half of one file and half of another is no damage.
                self._expect_unchanged()
                raise
            self._expect_unchanged()

    def _expect_unchanged(self) -> None:
        if self.data is not None or self.stamp is None:
            return
        try:
            stamp = _stamp(os.stat(self.path))
        except OSError as error:
            raise self._changed() from error
        if stamp != self.stamp:
            raise self._changed()

    def _changed(self) -> InputError:
        return InputError(
            f"{self.shown}: the file changed while it was being read",
            hint="run the same command again",
        )


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def open_source(path: str, *, digest: bool = True) -> Source:
    """Find a document and take its digest.

    Args:
        path: A file or pipe, or "-" for standard input.
        digest: Whether it is needed; it costs reading the file once.

    Raises:
        InputError: If it is missing, a directory, empty, or may not be read.
    """
    if path == "-":
        return _from_stream(sys.stdin.buffer, name="stdin", path="-", shown="-")
    try:
        return _from_path(path, digest)
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


def _from_path(path: str, digested: bool) -> Source:
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
        found = os.fstat(stream.fileno())
        size = found.st_size
        if size > FILE_LIMIT:
            raise InputError(
                f"{path}: {size >> 30:,} GiB, more than the {FILE_LIMIT >> 30} GiB that are read",
                hint=f"see what it is: file {shlex.quote(path)}",
            )
        head = stream.read(HEAD_BYTES)
        digest = ""
        if digested:
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            # More than at first, if it is being written to.
            size = stream.tell()
    if not head:
        raise InputError(
            f"{path}: file is empty (0 bytes)",
            hint=f"fetch the file again, then: ls -l {shlex.quote(path)}",
        )
    return Source(
        name=name,
        path=absolute,
        shown=path,
        size=size,
        sha256=digest,
        head=head,
        stamp=_stamp(found),
    )


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
