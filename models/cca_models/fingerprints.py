"""Digests of files, computed once and remembered.

A digest is remembered under the file's path, size and time of change, in one small JSON file of the
cache. Losing an entry, to another process or a full disk, costs only the time to compute it again.
"""

import hashlib
import json
import logging
import os
import time
from pathlib import Path

from cca_models.paths import cache_dir, replace_file

_log = logging.getLogger(__name__)

# A file that changed a moment ago may change again within the resolution of its time stamp.
_SETTLED_SECONDS = 2.0


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hex, from memory if the file has not changed since.

    Raises:
        OSError: If the file cannot be read.
    """
    path = path.resolve()
    state = path.stat()
    known = _recall()
    if known.get(str(path), ())[:2] == [state.st_size, state.st_mtime_ns]:
        return str(known[str(path)][2])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - state.st_mtime > _SETTLED_SECONDS:
        _remember(str(path), [state.st_size, state.st_mtime_ns, digest])
    return digest


def _place() -> Path:
    return cache_dir() / "fingerprints.json"


def _recall() -> dict[str, list[int | str]]:
    try:
        known = json.loads(_place().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(path: str, entry: list[int | str]) -> None:
    known = {name: old for name, old in _recall().items() if os.path.exists(name)}
    known[path] = entry
    try:
        replace_file(_place(), json.dumps(known).encode())
    except OSError as error:
        _log.debug("cannot remember a digest: %s", error)
