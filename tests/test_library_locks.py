"""Leases: what is in use is known to other processes, and dies with its user."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from library_entries import WANTED, store

from cca_cli.library import Library
from cca_cli.library_locks import Locks
from cca_cli.library_sweep import sweep

USER = (
    "import sys, time; from pathlib import Path; from cca_cli.library import Library\n"
    "from library_entries import WANTED\n"
    "lease = Library(Path(sys.argv[1])).use(WANTED)\n"
    "print(lease is not None, flush=True); time.sleep(60)\n"
)


def start_user(root: Path) -> subprocess.Popen[str]:
    """Use the entry in a process of its own."""
    path = os.pathsep.join(["tests", ".", "models", "kernels"])
    user = subprocess.Popen(
        [sys.executable, "-c", USER, str(root)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        cwd=Path(__file__).parents[1],
        text=True,
    )
    assert user.stdout is not None and user.stdout.readline() == "True\n"
    return user


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A library of one entry."""
    library = Library(tmp_path / "library")
    store(library)
    return library


def uses(library: Library) -> list[Path]:
    """List the notes of uses."""
    return list(library.locks.path.glob("*.use"))


def test_an_entry_in_use_is_not_evicted(library: Library) -> None:
    lease = library.use(WANTED)
    assert lease is not None
    assert not library.evict(library.path_of(WANTED))
    lease.release()
    assert library.evict(library.path_of(WANTED))
    assert library.directories() == [] and not list(library.root.glob(".trash-*"))


def test_a_lease_nobody_refers_to_ends(library: Library) -> None:
    lease = library.use(WANTED)
    assert lease is not None and len(uses(library)) == 1
    del lease
    gc.collect()
    assert uses(library) == []
    assert library.evict(library.path_of(WANTED))


def test_two_uses_are_two(library: Library) -> None:
    first, second = library.use(WANTED), library.use(WANTED)
    assert first is not None and second is not None
    first.release()
    assert not library.evict(library.path_of(WANTED))
    second.release()
    second.release()
    assert library.evict(library.path_of(WANTED))


def test_what_another_process_uses_stays_until_that_is_killed(library: Library) -> None:
    user = start_user(library.root)
    try:
        assert not library.evict(library.path_of(WANTED))
    finally:
        user.send_signal(signal.SIGKILL)
        user.wait(timeout=10)
    assert len(uses(library)) == 1, "a killed process cannot clear up"
    assert library.evict(library.path_of(WANTED))
    assert uses(library) == []


def test_sweeping_clears_what_killed_users_left(library: Library) -> None:
    user = start_user(library.root)
    lease = library.use(WANTED)
    user.kill()
    user.wait(timeout=10)
    sweep(library)
    assert len(uses(library)) == 1, "the note of the living stays"
    assert lease is not None and not library.evict(library.path_of(WANTED))


def test_removing_by_hand_does_not_ask(library: Library) -> None:
    lease = library.use(WANTED)
    assert library.remove(library.path_of(WANTED)) > 0
    assert lease is not None


def test_there_is_no_use_of_what_is_not_there(tmp_path: Path) -> None:
    library = Library(tmp_path / "absent")
    assert library.use(WANTED) is None
    assert not library.root.exists()


def test_a_library_that_cannot_be_written_to_can_be_used(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Locks, name: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Locks, "_lock", refuse)
    assert library.use(WANTED) is None


def test_a_draft_being_made_is_not_evicted(library: Library) -> None:
    path = library.draft_path(WANTED)
    path.mkdir()
    with library.hold(WANTED, on_wait=lambda pid: None):
        assert not library.evict(path)
    assert library.evict(path)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (f"4711 {socket.gethostname()}\n", "4711"),
        ("4711 elsewhere\n", "4711 on elsewhere"),
        ("4711\n", "4711"),
        ("", "unknown"),
        ("\x1b]0;x", "unknown"),
    ],
)
def test_the_holder_is_named(library: Library, written: str, shown: str) -> None:
    library.use(WANTED)
    (library.locks.path / "k.pid").write_text(written)
    assert library.locks.holder("k") == shown


def test_locks_are_private(library: Library) -> None:
    lease = library.use(WANTED)
    with library.hold(WANTED, on_wait=lambda pid: None):
        files = list(library.locks.path.iterdir())
        modes = {path.stat().st_mode & 0o077 for path in files}
    assert {path.suffix for path in files} == {".lock", ".pid", ".use"}
    assert lease is not None and modes == {0}
    assert library.locks.path.stat().st_mode & 0o777 == 0o700
