"""Who makes an entry, and who uses it: locks that die with their process.

    .locks/<key>.lock             held while the entry is made
    .locks/<key>.pid              who holds it: process id and host
    .locks/<key>.<pid>-<n>.use    one for each use of the entry, locked by its user
    .locks/library.lock           held for the moment in which an entry comes into use or goes

All are locks of the operating system, so kill -9 and a power cut release them. What is left of
the files says nothing: only whether a file is locked does.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cca_cli.library_files import make_private_dir

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["Lease", "Locks"]

_POLL_SECONDS = 0.1
_LIBRARY = "library"


class Lease:
    """The use of one entry; it lasts until `release`, until nobody refers to it, or the exit."""

    def __init__(self, lock: FileLock) -> None:
        self._end = weakref.finalize(self, _end_of_use, lock)

    def release(self) -> None:
        """End the use."""
        self._end()


def _end_of_use(lock: FileLock) -> None:
    with suppress(OSError):
        os.unlink(lock.lock_file)
    lock.release(force=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Locks:
    """The locks of the library in a directory, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / ".locks"

    @contextmanager
    def hold(self, key: str, *, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Hold the key of an entry while making it; wait while another process holds it.

        Args:
            key: Of the entry.
            on_wait: Called once with the holder, by process id, if there is need to wait.

        Raises:
            OSError: If the library cannot be written to.
        """
        from filelock import Timeout

        lock = self._lock(key)
        told = False
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                if not told:
                    told = True
                    on_wait(self.holder(key))
                time.sleep(_POLL_SECONDS)
        owner = self._owner_file(key)
        try:
            # A disk too full for the name is no reason to stop here; others read "unknown".
            with suppress(OSError), open(owner, "w", opener=_private) as stream:
                stream.write(f"{os.getpid()} {socket.gethostname()}\n")
            yield
        finally:
            with suppress(OSError):
                owner.unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def try_hold(self, key: str) -> Iterator[bool]:
        """Hold a key if nobody else does; yields whether it is held."""
        from filelock import Timeout

        lock = self._lock(key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def holder(self, key: str) -> str:
        """Name who makes an entry: ``4711``, or ``4711 on tiger`` for another machine."""
        try:
            pid, _, host = self._owner_file(key).read_text().strip().partition(" ")
        except (OSError, ValueError):
            return "unknown"
        if not pid.isdecimal():
            return "unknown"
        return pid if host in ("", socket.gethostname()) else f"{pid} on {host}"

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Keep entries from going while they come into use, and the other way round.

        Hold it for a rename or a look, never for work.

        Raises:
            OSError: If the library cannot be written to.
        """
        with self._lock(_LIBRARY):
            yield

    def use(self, key: str) -> Lease | None:
        """Note that an entry is in use; None where the library cannot be written to.

        Call it in a `moment`, so that whoever removes entries sees it.
        """
        name = f"{key}.{os.getpid()}-{uuid.uuid4().hex[:8]}.use"
        try:
            lock = self._file_lock(self.path / name)
            lock.acquire(timeout=0)
        except OSError:
            return None
        return Lease(lock)

    def in_use(self, key: str) -> bool:
        """Whether any process uses an entry; call it in a `moment`.

        It clears what killed processes left.
        """
        from filelock import Timeout

        used = False
        for path in self.path.glob(f"{key}.*.use"):
            lock = self._file_lock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                used = True
                continue
            _end_of_use(lock)
        return used

    def clear(self) -> None:
        """Clear the notes of uses that killed processes left; call it in a `moment`."""
        for key in {path.name.split(".")[0] for path in self.path.glob("*.use")}:
            self.in_use(key)

    def _lock(self, name: str) -> FileLock:
        make_private_dir(self.root)
        make_private_dir(self.path)
        return self._file_lock(self.path / f"{name}.lock")

    @staticmethod
    def _file_lock(path: Path) -> FileLock:
        # filelock costs start-up time, and only using and writing entries needs it.
        from filelock import FileLock

        # A use may end in another thread than the one it began in.
        return FileLock(path, mode=0o600, thread_local=False)

    def _owner_file(self, key: str) -> Path:
        return self.path / f"{key}.pid"
