"""The memories of documents on disk: lookup, locks, listing and removal.

    library/<key>/           one document read with one model: see library_entry
    library/.draft-<key>/    the same in the making: see library_draft
    library/.locks/          who makes an entry, who uses it: see library_locks
    library/.trash-<id>/     on its way out

Correctness rests on renaming complete directories; the locks only avoid doing work twice.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.errors import InputError, MissingMemoryError
from cca_cli.library_draft import Draft
from cca_cli.library_entry import Entry, Fingerprint, Settings, entry_row
from cca_cli.library_files import (
    DRAFT_PREFIX,
    UNREADABLE,
    disk_bytes,
    key_of,
    make_private_dir,
    remove_tree,
    set_aside,
    tag_cache,
)
from cca_cli.library_listing import broken_row, draft_row
from cca_cli.library_locks import Lease, Locks
from cca_cli.library_reasons import why_not

if TYPE_CHECKING:
    from cca_models.documents import Document

__all__ = ["DAMAGED", "Hit", "Library", "Miss"]

DAMAGED = "entry is damaged"
"""How the reason of a miss begins if there is an entry and it cannot be used."""


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
        self.locks = Locks(root)

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
        return self.root / f"{DRAFT_PREFIX}{fingerprint.key}"

    def open_draft(self, fingerprint: Fingerprint, settings: Settings) -> Draft:
        """Return the draft of an entry; call it while holding the key."""
        make_private_dir(self.root)
        tag_cache(self.root)
        draft = Draft(self.draft_path(fingerprint), fingerprint, settings)
        draft.clear_asides()
        return draft

    def entries(self) -> Iterator[Entry]:
        """Go through the finished entries; unreadable ones are left out: see `broken`."""
        for path in self.directories():
            if not path.name.startswith("."):
                entry = Entry.open(path)
                if entry is not None:
                    yield entry

    def broken(self) -> list[Path]:
        """Return the directories of entries whose manifest cannot be read."""
        inside = (path for path in self.directories() if not path.name.startswith("."))
        # One that another process removed meanwhile is not broken.
        return [path for path in inside if Entry.open(path) is None and path.is_dir()]

    def listing(self) -> list[dict[str, Any]]:
        """List finished entries, last used first, then unfinished and unreadable ones."""
        rows: list[dict[str, Any]] = []
        others: list[dict[str, Any] | None] = []
        for path in self.directories():
            if path.name.startswith("."):
                others.append(draft_row(path))
            elif (row := entry_row(path)) is not None:
                rows.append(row)
            else:
                others.append(broken_row(path))
        rows.sort(key=lambda row: str(row["last_used"]), reverse=True)
        return rows + [row for row in others if row is not None]

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
                # What cannot be read here is read from the file.
                with suppress(OSError, *UNREADABLE):
                    return entry.read_document()
        return None

    def remains(self, query: str) -> list[Path]:
        """Find drafts by path, name or the start of the key, and unreadable entries by the key."""
        found = []
        for path in self.directories():
            row = draft_row(path) if path.name.startswith(".") else None
            if row is None and Entry.open(path) is not None:
                continue
            by_key = len(query) >= 4 and key_of(path).startswith(query)
            named = row is not None and (
                query == row["name"] or os.path.abspath(query) == row["path"]
            )
            if by_key or named:
                found.append(path)
        return found

    def directories(self) -> list[Path]:
        """Return the directories of all entries and drafts, readable or not."""
        if not self.root.is_dir():
            return []
        with os.scandir(self.root) as inside:
            names = sorted(item.name for item in inside if item.is_dir(follow_symlinks=False))
        return [self.root / n for n in names if not n.startswith(".") or n.startswith(DRAFT_PREFIX)]

    def remove(self, path: Path) -> int:
        """Remove the directory of an entry or a draft; readers of it are not disturbed.

        Returns:
            Bytes freed.

        Raises:
            MissingMemoryError: If another process is making it right now.
        """
        with self.locks.try_hold(key_of(path)) as free:
            if not free:
                raise MissingMemoryError(
                    f"{key_of(path)[:12]} is being read by another cca "
                    f"(pid {self.locks.holder(key_of(path))})",
                    hint="wait for it, or stop it first",
                )
            size = disk_bytes(path) if path.is_dir() else 0
            remove_tree(path)
        return size

    def evict(self, path: Path, *, dry_run: bool = False) -> bool:
        """Remove the directory of an entry or a draft unless it is in use or in the making.

        Returns:
            Whether it went, or would go.
        """
        key = key_of(path)
        with self.locks.try_hold(key) as free:
            if not free:
                return False
            with self.locks.moment():
                if path.name == key and self.locks.in_use(key):
                    return False
                trash = None if dry_run else set_aside(path)
        if trash is not None:
            shutil.rmtree(trash, ignore_errors=True)
        return True

    def use(self, fingerprint: Fingerprint) -> Lease | None:
        """Note that an entry is in use, so that it is not removed to make room.

        Returns:
            Hold on to it as long as the entry is used. None if there is no entry, or the library
            cannot be written to: it can still be read.
        """
        if not self.path_of(fingerprint).is_dir():
            return None
        with suppress(OSError), self.locks.moment():
            if self.path_of(fingerprint).is_dir():
                return self.locks.use(fingerprint.key)
        return None

    def hold(
        self, fingerprint: Fingerprint, *, on_wait: Callable[[str], None]
    ) -> AbstractContextManager[None]:
        """Hold the key of an entry while making it; wait while another process holds it.

        Args:
            fingerprint: Of the entry.
            on_wait: Called once with the holder if there is need to wait.
        """
        return self.locks.hold(fingerprint.key, on_wait=on_wait)
