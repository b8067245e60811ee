"""Files of the library: written aside, synced to disk, then renamed; private to the user."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = [
    "DRAFT_PREFIX",
    "UNREADABLE",
    "at_once",
    "check_safetensors",
    "disk_bytes",
    "encode_json",
    "file_sha256",
    "key_of",
    "make_private_dir",
    "read_json",
    "remove_tree",
    "set_aside",
    "sync_dir",
    "tag_cache",
    "write_file",
    "write_json",
    "write_with",
]

DRAFT_PREFIX = ".draft-"
"""How the name of an entry in the making begins; its key follows."""

UNREADABLE = (
    AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError
)  # fmt: skip
"""What reading raises where a file holds something else than what was written."""

_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This directory holds memories of documents, made by cca. They can be made again.
"""


def key_of(path: Path) -> str:
    """Return the key of an entry from its directory, finished or in the making."""
    return path.name.removeprefix(DRAFT_PREFIX)


def make_private_dir(path: Path) -> None:
    """Make a directory that only the user may enter; one that is there already is closed, too.

    Where a link leads is left as it is: it may be anything, and serve others.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077 and not path.is_symlink():
        # An umask cannot open what mkdir closed, but a copy or an earlier program can.
        with suppress(PermissionError):
            path.chmod(0o700)


def tag_cache(path: Path) -> None:
    """Mark a directory as a cache for backup programs (CACHEDIR.TAG)."""
    tag = path / "CACHEDIR.TAG"
    if not tag.exists():
        write_file(tag, _TAG.encode())


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file through a function that takes a path; the file appears complete or not at all.

    Args:
        path: The file.
        write: Writes to the path it is given, which has the same suffix as `path`.

    Raises:
        OSError: If the file cannot be written, or came out empty.
    """
    aside = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        write(aside)
        descriptor = os.open(aside, os.O_RDONLY)
        try:
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size == 0:
            raise OSError(f"{path.name}: nothing was written")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_dir(path.parent)


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write bytes; the file appears complete or not at all."""

    def write(aside: Path) -> None:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(content)

    write_with(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; the file appears complete or not at all."""
    write_file(path, encode_json(json.dumps(value, ensure_ascii=False, indent=1) + "\n"))


def encode_json(text: str) -> bytes:
    """Encode JSON text; a lone surrogate, which some PDFs hold, becomes its JSON escape."""
    return text.encode("utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Read a JSON file, or return None if it is missing or not JSON."""
    try:
        with open(path, "rb", opener=at_once) as stream:
            return json.loads(stream.read())
    except (OSError, ValueError, RecursionError):
        return None


def at_once(path: str, flags: int) -> int:
    """Open a file without waiting for anybody, should it be a pipe; an opener for `open`."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def sync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a directory so that it is gone for others at once, and then for good."""
    trash = set_aside(path)
    if trash is not None:
        shutil.rmtree(trash, ignore_errors=True)


def set_aside(path: Path) -> Path | None:
    """Rename a directory so that it is gone for others; returns where it is now, None if gone."""
    trash = path.with_name(f".trash-{uuid.uuid4().hex}")
    try:
        os.replace(path, trash)
    except FileNotFoundError:
        return None
    return trash


def disk_bytes(path: Path) -> int:
    """Add up the sizes of the files in a directory; what vanishes meanwhile counts nothing."""
    total = 0
    with os.scandir(path) as files:
        for file in files:
            with suppress(FileNotFoundError):
                total += file.stat(follow_symlinks=False).st_size
    return total


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_safetensors(path: Path) -> str | None:
    """Check a safetensors file by its header alone.

    Returns:
        What is wrong with it, or None.
    """
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                return f"{path.name} is cut short"
            header = json.loads(stream.read(length))
        end = max(
            (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"),
            default=0,
        )
    except (OSError, *UNREADABLE, struct.error):
        return f"{path.name} has no readable header"
    if 8 + length + end != size:
        return f"{path.name} is cut short"
    return None
