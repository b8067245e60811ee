"""The memories of documents on disk: lookup, locks, listing and removal.

    library/<key>/           one document read with one model: see library_entry
    library/.draft-<key>/    the same in the making: see library_draft
    library/.locks/          one lock per key, and who holds it

Correctness rests on renaming complete directories; the locks only avoid doing work twice.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.errors import InputError, MissingMemoryError
from cca_cli.library_draft import STATE, Draft
from cca_cli.library_entry import Entry, Fingerprint, Settings
from cca_cli.library_files import make_private_dir, read_json, remove_tree, tag_cache
from cca_cli.library_reasons import why_not

if TYPE_CHECKING:
    from filelock import FileLock

    from cca_models.documents import Document

__all__ = ["DAMAGED", "Hit", "Library", "Miss"]

DAMAGED = "entry is damaged"
"""How the reason of a miss begins if there is an entry and it cannot be used."""

_DRAFT_DAYS = 30
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Hit:
    """The library has the memory."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Miss:
    """The library has no memory that fits.

    Attributes:
        reason: Why, in words that end a sentence.
        begun: Tokens that an interrupted run has read already.
    """

    reason: str
    begun: int = 0


class Library:
    """The library in a directory, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def lookup(self, fingerprint: Fingerprint, *, path: str, settings: Settings) -> Hit | Miss:
        """Look for the memory of a document.

        Args:
            fingerprint: Exactly what is wanted.
            path: Absolute path of the document, to recognise an older version of it.
            settings: What is wanted, in words for the reason of a miss.

        Returns:
            The entry, or the reason why there is none.
        """
        entry = Entry.open(self.path_of(fingerprint))
        if entry is not None:
            damage = entry.damage()
            return Hit(entry) if damage is None else Miss(f"{DAMAGED}: {damage}")
        if self.path_of(fingerprint).exists():
            return Miss(f"{DAMAGED}: its manifest cannot be read")
        draft = Draft(self.draft_path(fingerprint), fingerprint, settings)
        saved = draft.saved_memory()
        if saved is not None:
            return Miss("an earlier run was interrupted", begun=saved[1])
        return Miss(self._reason(fingerprint, path, settings))

    def _reason(self, wanted: Fingerprint, path: str, settings: Settings) -> str:
        same = [
            entry
            for entry in self.entries()
            if entry.fingerprint.document_sha256 == wanted.document_sha256
        ]
        if same:
            return why_not(same, wanted, settings)
        if path != "-" and any(e.manifest["document"]["path"] == path for e in self.entries()):
            return "the file has changed since it was read"
        return "not in the library"

    def path_of(self, fingerprint: Fingerprint) -> Path:
        """Return the directory of an entry, whether it exists or not."""
        return self.root / fingerprint.key

    def draft_path(self, fingerprint: Fingerprint) -> Path:
        """Return the directory of an entry in the making."""
        return self.root / f".draft-{fingerprint.key}"

    def open_draft(self, fingerprint: Fingerprint, settings: Settings) -> Draft:
        """Return the draft of an entry; call it while holding the key."""
        make_private_dir(self.root)
        tag_cache(self.root)
        return Draft(self.draft_path(fingerprint), fingerprint, settings)

    def entries(self) -> Iterator[Entry]:
        """Go through the finished entries; unreadable ones are left out."""
        if not self.root.is_dir():
            return
        for path in sorted(self.root.iterdir()):
            if not path.name.startswith(".") and path.is_dir():
                entry = Entry.open(path)
                if entry is not None:
                    yield entry

    def listing(self) -> list[dict[str, Any]]:
        """List finished and unfinished entries, last used first."""
        rows = [entry.summary() for entry in self.entries()]
        rows.sort(key=lambda row: str(row["last_used"]), reverse=True)
        return rows + [row for path in self._drafts() if (row := _draft_summary(path)) is not None]

    def find(self, query: str) -> list[Entry]:
        """Find the entries of one document.

        Args:
            query: Path of the file, its name, or the start of an entry's key.

        Returns:
            Entries of one and the same document, last used first.

        Raises:
            InputError: If nothing fits, or several documents do.
        """
        path = os.path.abspath(query)
        entries = sorted(self.entries(), key=lambda entry: entry.last_used, reverse=True)
        documents = [entry.manifest["document"] for entry in entries]
        by_path = [e for e, d in zip(entries, documents, strict=True) if d["path"] == path]
        by_name = [e for e, d in zip(entries, documents, strict=True) if d["name"] == query]
        by_key = [e for e in entries if len(query) >= 4 and e.key.startswith(query)]
        found = by_path or by_name or by_key
        if not found:
            raise InputError(f"{query}: not in the library", hint="cca docs ls")
        if len({entry.fingerprint.document_sha256 for entry in found}) > 1 and not by_path:
            keys = ", ".join(entry.key[:12] for entry in found)
            raise InputError(
                f"{query}: several documents in the library fit",
                hint=f"use the path or one of the keys {keys}",
            )
        return found

    def find_text(self, *, sha256: str, reading: str, pages: str) -> Document | None:
        """Return the text of a document that was read with any model, or None."""
        for entry in self.entries():
            found = entry.fingerprint
            same = (found.document_sha256, found.reading, found.pages) == (sha256, reading, pages)
            if same and entry.damage() is None:
                return entry.read_document()
        return None

    def unfinished(self, query: str) -> list[Path]:
        """Find the drafts of a document by path, name or the start of the key."""
        found = []
        for path in self._drafts():
            row = _draft_summary(path)
            if row is None:
                continue
            by_key = len(query) >= 4 and str(row["key"]).startswith(query)
            if by_key or query == row["name"] or os.path.abspath(query) == row["path"]:
                found.append(path)
        return found

    def directories(self) -> list[Path]:
        """Return the directories of all entries and drafts, readable or not."""
        if not self.root.is_dir():
            return []
        inside = (path for path in sorted(self.root.iterdir()) if path.is_dir())
        return [p for p in inside if not p.name.startswith(".") or p.name.startswith(".draft-")]

    def remove(self, path: Path) -> int:
        """Remove the directory of an entry or a draft; readers of it are not disturbed.

        Returns:
            Bytes freed.

        Raises:
            MissingMemoryError: If another process is making it right now.
        """
        with self._try_lock(_key_of(path)) as free:
            if not free:
                raise MissingMemoryError(
                    f"{path.name.removeprefix('.draft-')[:12]} is being read by another cca "
                    f"(pid {self._holder(_key_of(path))})",
                    hint="wait for it, or stop it first",
                )
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            remove_tree(path)
        return size

    @contextmanager
    def hold(self, fingerprint: Fingerprint, *, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Hold the key of an entry while making it; wait while another process holds it.

        Args:
            fingerprint: Of the entry.
            on_wait: Called once with the holder's pid if there is need to wait.
        """
        from filelock import Timeout

        lock = self._lock(fingerprint.key)
        told = False
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                if not told:
                    told = True
                    on_wait(self._holder(fingerprint.key))
                time.sleep(_POLL_SECONDS)
        owner = self._owner_file(fingerprint.key)
        try:
            owner.write_text(f"{os.getpid()}\n")
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def sweep(self) -> None:
        """Remove what killed processes left: half-removed entries and drafts of no use.

        A draft is of use if it holds a saved memory and is not older than 30 days. Nothing is
        touched while its key is held.
        """
        if not self.root.is_dir():
            return
        for path in self.root.glob(".trash-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._drafts():
            row = _draft_summary(path)
            age = time.time() - path.stat().st_mtime
            if row is not None and row["done"] and age < _DRAFT_DAYS * 86400:
                continue
            with self._try_lock(_key_of(path)) as free:
                if free and not Draft.is_complete(path):
                    remove_tree(path)

    def _drafts(self) -> list[Path]:
        return sorted(self.root.glob(".draft-*")) if self.root.is_dir() else []

    def _lock(self, key: str) -> FileLock:
        # filelock costs start-up time, and only writing needs it.
        from filelock import FileLock

        make_private_dir(self.root)
        make_private_dir(self.root / ".locks")
        return FileLock(self.root / ".locks" / f"{key}.lock", mode=0o600)

    def _owner_file(self, key: str) -> Path:
        return self.root / ".locks" / f"{key}.pid"

    def _holder(self, key: str) -> str:
        try:
            return self._owner_file(key).read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    @contextmanager
    def _try_lock(self, key: str) -> Iterator[bool]:
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


def _key_of(path: Path) -> str:
    return path.name.removeprefix(".draft-")


def _draft_summary(path: Path) -> dict[str, Any] | None:
    state = read_json(path / STATE)
    if not isinstance(state, dict):
        return None
    done, tokens = int(state["done"]), int(state["tokens"])
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return {
        "key": state["key"],
        "name": state["document"]["name"],
        "path": state["document"]["path"],
        "sha256": state["document"]["sha256"],
        "pages": state["pages"],
        "selection": state["fingerprint"]["pages"],
        "tokens": tokens,
        **state["settings"],
        "bytes": size,
        "created": None,
        "last_used": None,
        "state": f"unfinished, {100 * done // tokens} %",
        "done": done,
    }
