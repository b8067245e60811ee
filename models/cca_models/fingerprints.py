"""Digests of files, computed once and remembered.

A digest is remembered under the file's path, size and time of change, in small JSON files of the
cache, one for each kind of digest. Losing an entry, to another process or a full disk, costs only
the time to compute it again.
"""

import hashlib
import json
import logging
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from cca_models.errors import CheckpointError
from cca_models.paths import cache_dir, replace_file

_log = logging.getLogger(__name__)

# A file that changed a moment ago may change again within the resolution of its time stamp.
_SETTLED_SECONDS = 2.0


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hex, from memory if the file has not changed since.

    Raises:
        OSError: If the file cannot be read.
    """
    return _remembered("fingerprints", path, _of_bytes)


def tensors_sha256(path: Path) -> str:
    """Return the SHA-256 over the tensors of a safetensors file, hex, likewise remembered.

    It goes by names, dtypes, shapes and values, and not by how the file lays them out.

    Raises:
        CheckpointError: If the file is damaged.
        OSError: If it cannot be read.
    """
    return _remembered("tensor-fingerprints", path, _of_tensors)


def _remembered(kind: str, path: Path, compute: Callable[[Path], str]) -> str:
    path = path.resolve()
    state = path.stat()
    known = _recall(kind)
    if known.get(str(path), ())[:2] == [state.st_size, state.st_mtime_ns]:
        return str(known[str(path)][2])
    digest = compute(path)
    if time.time() - state.st_mtime > _SETTLED_SECONDS:
        _remember(kind, str(path), [state.st_size, state.st_mtime_ns, digest])
    return digest


def _of_bytes(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_tensors(path: Path) -> str:
    whole = hashlib.sha256()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            start = 8 + struct.unpack("<Q", held[:8])[0]
            header = json.loads(held[8:start])
            header.pop("__metadata__", None)
            for name in sorted(header):
                entry = header[name]
                first, end = (start + offset for offset in entry["data_offsets"])
                whole.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
                with memoryview(held) as view, view[first:end] as values:
                    whole.update(values)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file ({error})",
            hint="copy or download the checkpoint again",
        ) from error
    return whole.hexdigest()


def _place(kind: str) -> Path:
    return cache_dir() / f"{kind}.json"


def _recall(kind: str) -> dict[str, list[int | str]]:
    try:
        known = json.loads(_place(kind).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(kind: str, path: str, entry: list[int | str]) -> None:
    known = {name: old for name, old in _recall(kind).items() if os.path.exists(name)}
    known[path] = entry
    try:
        replace_file(_place(kind), json.dumps(known).encode())
    except OSError as error:
        _log.debug("cannot remember a digest: %s", error)
