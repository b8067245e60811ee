"""What killed processes left in the library, and what becomes of it."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from cca_cli.library import Library
from cca_cli.library_draft import Draft
from cca_cli.library_files import DRAFT_PREFIX, key_of, remove_tree
from cca_cli.library_listing import draft_row

__all__ = ["sweep"]

_DRAFT_DAYS = 30
_ASIDE_SECONDS = 3600
_ASIDE = ".[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]-*"


def sweep(library: Library, *, spare: str = "") -> None:
    """Finish or remove what killed processes left; nothing is touched while its key is held.

    A draft that lacks only its last rename becomes the entry that it is. Another one is of use
    if it holds a saved memory and is not older than 30 days; the rest goes, like half-removed
    entries.

    Args:
        library: The library.
        spare: Key of a draft that is kept for its text, since it is about to be continued.
    """
    if not library.root.is_dir():
        return
    for path in library.root.glob(".trash-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in library.root.glob(_ASIDE):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ASIDE_SECONDS:
                path.unlink()
    for path in library.root.glob(f"{DRAFT_PREFIX}*"):
        # A disk that is full or another process that is quicker: what stays is swept next time.
        with suppress(OSError):
            _sweep_draft(library, path, spare)
    with suppress(OSError), library.locks.moment():
        library.locks.clear()


def _sweep_draft(library: Library, path: Path, spare: str) -> None:
    key = key_of(path)
    row = draft_row(path)
    recent = time.time() - path.stat().st_mtime < _DRAFT_DAYS * 86400
    of_use = row is not None and (row["done"] or key == spare)
    if of_use and recent and not Draft.is_complete(path):
        return
    with library.locks.try_hold(key) as free:
        if not free or not path.is_dir():
            return
        if Draft.is_complete(path):
            Draft.promote_at(path, library.root / key)
        elif not (of_use and recent):
            remove_tree(path)
