"""Directories that this program made, checkpoints above all: each complete or not there."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cca_models.paths import models_dir
from cca_models.progress import Progress

_log = logging.getLogger(__name__)


@contextmanager
def building(
    name: str,
    progress: Progress | None = None,
    *,
    resumable: bool = False,
    root: Path | None = None,
) -> Iterator[tuple[Path, Path | None]]:
    """Make the directory `name` aside and put it in its place when it is whole.

    One process at a time works on a name; another waits and then finds it done.

    Args:
        name: The directory's name under the root.
        progress: Told when another process has to be waited for.
        resumable: Keep what was done before an error, for the next attempt to go on with.
        root: Where it shall stand, a directory that is there; that of the checkpoints by default.

    Yields:
        The final directory, and the one to fill: None if the final one is there already. After an
        error nothing of it is left, unless it is resumable.

    Raises:
        OSError: If the disk is full or not writable.
    """
    # Only needed when something is made.
    from filelock import FileLock, Timeout

    root = models_dir() if root is None else root
    target = root / name
    if target.is_dir():
        yield target, None
        return
    lock = FileLock(root / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.info("another process is making %s; waiting for it", name)
        if progress:
            progress("wait for another process", 0, 0)
        lock.acquire()
    try:
        if target.is_dir():
            yield target, None
            return
        aside = root / f".partial-{name}"
        if not resumable:
            # A process that was killed may have left it.
            shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700, exist_ok=resumable)
        try:
            yield target, aside
            sync_directory(aside)
            os.replace(aside, target)
            sync_directory(root)
        finally:
            if not resumable:
                shutil.rmtree(aside, ignore_errors=True)
    finally:
        lock.release()


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hub_directory(name: str) -> str:
    """Return the name of the directory for the hub's checkpoint "owner/name"."""
    return name.replace("/", "--", 1)


def stored() -> list[Path]:
    """Return the checkpoint directories under the root, by name."""
    found = []
    for entry in sorted(models_dir().iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            found.append(entry)
    return found


def size_of(directory: Path) -> int:
    """Return the bytes of all files under a directory, also while they come and go."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total
