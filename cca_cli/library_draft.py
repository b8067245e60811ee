"""An entry in the making: a hidden directory that lookups do not see and a re-run continues.

It holds the text, the tokens and the last saved memory. The caller holds the key's lock.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cca_cli import __version__
from cca_cli.library_entry import (
    MANIFEST,
    MARGIN,
    MEMORY,
    TEXT,
    TOKENS,
    Entry,
    Fingerprint,
    Settings,
    StoredText,
)
from cca_cli.library_files import (
    UNREADABLE,
    encode_json,
    file_sha256,
    make_private_dir,
    read_json,
    remove_tree,
    sync_dir,
    write_file,
    write_json,
    write_with,
)
from cca_cli.library_manifest import document_from, document_record, seal

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Draft", "SavableMemory"]

STATE = "state.json"
# What is written beside the whole memory: its header, the manifest, and directories.
_ROOM_BESIDE = 512 * 1024


class SavableMemory(Protocol):
    """What the library needs of a memory."""

    @property
    def seen(self) -> int:
        """Tokens read."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that saving takes, but for a header."""
        ...

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        ...

    def save_margin(self, path: Path, before: Any) -> None:
        """Write what brings the memory back to an earlier one of the same text."""
        ...


class Draft:
    """A draft of one entry.

    Attributes:
        path: Its directory; it need not exist yet.
        fingerprint: What the entry will be keyed by.
        settings: The settings, for people.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint, settings: Settings) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.settings = settings

    def read_text(self) -> StoredText | None:
        """Return the text and tokens that an earlier run left, or None."""
        import numpy as np

        state = self._state()
        if state is None:
            return None
        try:
            with open(self.path / TEXT, encoding="utf-8") as stream:
                pages = [json.loads(line) for line in stream]
            ids: npt.NDArray[Any] = np.load(self.path / TOKENS, allow_pickle=False)
            return StoredText(
                document=document_from(state["document"], pages),
                ids=ids,
                prefix_tokens=state["prefix_tokens"],
                page_tokens=tuple(page["tokens"] for page in pages),
            )
        except (OSError, *UNREADABLE):
            return None

    def saved_memory(self) -> tuple[Path, int] | None:
        """Return the last saved memory and the tokens it has read, or None."""
        state = self._state()
        try:
            if state is None or not state["done"]:
                return None
            path, done = self.path / str(state["memory"]), int(state["done"])
        except UNREADABLE:
            return None
        return (path, done) if path.is_file() else None

    @property
    def saved_bytes(self) -> int:
        """Size of the last saved memory; 0 without one."""
        saved = self.saved_memory()
        return saved[0].stat().st_size if saved is not None else 0

    def start(self, text: StoredText) -> None:
        """Store text and tokens, in place of whatever an earlier run left."""
        import numpy as np

        remove_tree(self.path)
        make_private_dir(self.path)
        pages = zip(text.document.pages, text.page_tokens, strict=True)
        lines = (
            json.dumps(
                {"number": page.number, "label": page.label, "tokens": tokens, "text": page.text},
                ensure_ascii=False,
            )
            for page, tokens in pages
        )
        write_file(self.path / TEXT, encode_json("".join(line + "\n" for line in lines)))

        # To a file numpy writes in a way that does not say when the disk is full.
        tokens = io.BytesIO()
        np.save(tokens, text.ids.astype(np.uint32, copy=False), allow_pickle=False)
        write_file(self.path / TOKENS, tokens.getbuffer())
        self._write_state(text, done=0, memory="")

    def checkpoint(self, text: StoredText, memory: SavableMemory) -> None:
        """Save the memory as it stands; the one saved before is kept until this one is whole."""
        name = f"memory-{memory.seen}.safetensors"
        write_with(self.path / name, memory.save)
        self._write_state(text, done=memory.seen, memory=name)
        for old in self.path.glob("memory-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def finish(
        self,
        text: StoredText,
        memory: SavableMemory,
        target: Path,
        *,
        before: SavableMemory | None = None,
    ) -> Entry:
        """Save the whole memory and turn the draft into the entry.

        Args:
            text: What was read.
            memory: The memory of all of it.
            target: Directory of the entry; one that is there already is replaced.
            before: The same memory a few tokens before the end. With it a document that grows
                later can be read on from there.

        Returns:
            The entry.
        """
        names = [TEXT, TOKENS, MEMORY]
        self._make_way(text, memory)
        write_with(self.path / MEMORY, memory.save)
        if before is not None:
            write_with(self.path / MARGIN, lambda aside: memory.save_margin(aside, before))
            names.append(MARGIN)
        manifest = {
            "key": self.fingerprint.key,
            "made_by": __version__,
            "fingerprint": asdict(self.fingerprint),
            "settings": asdict(self.settings),
            "document": document_record(text.document),
            "pages": len(text.document.pages),
            "tokens": len(text.ids),
            "prefix_tokens": text.prefix_tokens,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": {
                name: {
                    "bytes": (self.path / name).stat().st_size,
                    "sha256": file_sha256(self.path / name),
                }
                for name in names
            },
        }
        write_json(self.path / MANIFEST, seal(manifest))
        return self.promote(target)

    def promote(self, target: Path) -> Entry:
        """Rename the draft, which is complete, into the library."""
        return Draft.promote_at(self.path, target)

    @staticmethod
    def promote_at(path: Path, target: Path) -> Entry:
        """Rename a complete draft into the library, in place of what is there.

        Args:
            path: Directory of the draft.
            target: Directory of the entry.
        """
        (path / STATE).unlink(missing_ok=True)
        for leftover in (*path.glob("memory-*.safetensors"), *path.glob(".*")):
            leftover.unlink(missing_ok=True)
        sync_dir(path)
        if target.exists():
            remove_tree(target)
        os.replace(path, target)
        sync_dir(target.parent)
        entry = Entry.open(target)
        assert entry is not None
        return entry

    def clear_asides(self) -> None:
        """Remove half-written files of a run that was killed; they may be large."""
        for path in self.path.glob(".*"):
            path.unlink(missing_ok=True)

    @staticmethod
    def is_complete(path: Path) -> bool:
        """Whether the run was cut off after everything was written, just before the rename."""
        entry = Entry.open(path)
        return entry is not None and entry.damage() is None

    def _make_way(self, text: StoredText, memory: SavableMemory) -> None:
        """Give up the last saved memory if only without it the whole one finds room."""
        saved = self.saved_memory()
        if saved is None:
            return
        needed = memory.nbytes + _ROOM_BESIDE
        free = shutil.disk_usage(self.path).free
        if free < needed <= free + saved[0].stat().st_size:
            self._write_state(text, done=0, memory="")
            saved[0].unlink()

    def discard(self) -> None:
        """Remove the draft."""
        remove_tree(self.path)

    def discard_if_useless(self) -> None:
        """Remove the draft unless a later run could continue from a saved memory."""
        if self.saved_memory() is None:
            self.discard()

    def _state(self) -> dict[str, Any] | None:
        state = read_json(self.path / STATE)
        if not isinstance(state, dict) or state.get("key") != self.fingerprint.key:
            return None
        return state

    def _write_state(self, text: StoredText, *, done: int, memory: str) -> None:
        state = {
            "key": self.fingerprint.key,
            "fingerprint": asdict(self.fingerprint),
            "settings": asdict(self.settings),
            "document": document_record(text.document),
            "pages": len(text.document.pages),
            "tokens": len(text.ids),
            "prefix_tokens": text.prefix_tokens,
            "done": done,
            "memory": memory,
        }
        write_json(self.path / STATE, state)
