"""One entry of the library: what it is keyed by, what its manifest says, and its text.

<key>/manifest.json        fingerprint, settings, document, outline, sizes and hashes of the files
<key>/text.jsonl           one page a line: number, label, tokens, text
<key>/tokens.npy           uint32, the prompt's prefix and then every page
<key>/memory.safetensors   the memory itself
<key>/margin.safetensors   what brings the memory back a few tokens, if the document grows
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.errors import MissingMemoryError
from cca_cli.library_files import (
    UNREADABLE,
    at_once,
    check_safetensors,
    file_sha256,
    read_json,
)
from cca_cli.library_manifest import document_from

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cca_models.documents import Document

__all__ = ["FORMAT_VERSION", "Entry", "Fingerprint", "Settings", "StoredText", "entry_row"]

FORMAT_VERSION = 1
"""Raised whenever the files of an entry change their meaning."""

MANIFEST = "manifest.json"
TEXT = "text.jsonl"
TOKENS = "tokens.npy"
MEMORY = "memory.safetensors"
MARGIN = "margin.safetensors"
NEEDED = frozenset({TEXT, TOKENS, MEMORY})
FILES = NEEDED | {MARGIN}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The part of a fingerprint that people recognise; named when a memory does not fit.

    Attributes:
        model: Name of the checkpoint.
        group_size: Tokens per core token, G.
        window: Raw tokens, W.
        dtype: Number format of the memory.
        adapter: Name of the adapter; None without one, or where an entry does not say.
    """

    model: str
    group_size: int
    window: int
    dtype: str
    adapter: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """Everything that a memory depends on; two runs that agree in it make the same memory.

    Attributes:
        document_sha256: Digest of the file's bytes.
        reading: Reader options and versions that turn the bytes into text.
        pages: Page selection as given, "all" without one.
        model: Fingerprint of the language model: checkpoint, attention settings, RoPE rule, dtype.
        tokenizer: Fingerprint of the tokenizer.
        prefix_sha256: Digest of the token ids that stand before the document.
        format_version: Version of the entry's files.
    """

    document_sha256: str
    reading: str
    pages: str
    model: str
    tokenizer: str
    prefix_sha256: str
    format_version: int = FORMAT_VERSION

    @property
    def key(self) -> str:
        """Name of the entry: SHA-256 over the canonical JSON of the whole, hex."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Fingerprint:
        """Read a fingerprint back from a manifest.

        Raises:
            TypeError: If a field is missing.
        """
        return cls(**{field.name: value[field.name] for field in fields(cls)})


_FINGERPRINT = frozenset(field.name for field in fields(Fingerprint))
_SETTINGS = frozenset(field.name for field in fields(Settings))
_PAGE = frozenset({"number", "label", "tokens", "text"})


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredText:
    """A document with its tokens.

    Attributes:
        document: Pages, labels and outline.
        ids: Token ids: the prompt's prefix, then page after page; uint32.
        prefix_tokens: Length of the prefix.
        page_tokens: Tokens of every page, in the order of the pages.
    """

    document: Document
    ids: npt.NDArray[np.uint32]
    prefix_tokens: int
    page_tokens: tuple[int, ...]

    @property
    def page_spans(self) -> tuple[tuple[int, int], ...]:
        """First token and the token after the last of every page, as places in `ids`."""
        spans, start = [], self.prefix_tokens
        for count in self.page_tokens:
            spans.append((start, start + count))
            start += count
        return tuple(spans)


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished entry on disk.

    Attributes:
        path: Its directory.
        manifest: Its manifest as read.
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Entry | None:
        """Open the entry in a directory; None if there is no readable manifest."""
        manifest = read_json(path / MANIFEST)
        if not isinstance(manifest, dict):
            return None
        try:
            _facts(manifest)
        except UNREADABLE:
            return None
        return cls(path, manifest)

    @property
    def key(self) -> str:
        """Name of the entry."""
        return str(self.manifest["key"])

    @property
    def fingerprint(self) -> Fingerprint:
        """What the entry is keyed by."""
        return Fingerprint.from_dict(self.manifest["fingerprint"])

    @property
    def settings(self) -> Settings:
        """The settings it was read with."""
        return Settings(**self.manifest["settings"])

    @property
    def memory_path(self) -> Path:
        """File of the memory."""
        return self.path / MEMORY

    @property
    def margin_path(self) -> Path | None:
        """File that brings the memory back a few tokens, or None if it was made without."""
        return self.path / MARGIN if MARGIN in self.manifest["files"] else None

    @property
    def nbytes(self) -> int:
        """Bytes on disk, by the manifest."""
        return sum(record["bytes"] for record in self.manifest["files"].values())

    @property
    def last_used(self) -> datetime:
        """When the entry was last used, UTC; kept as the manifest's modification time."""
        try:
            used = os.stat(os.path.join(self.path, MANIFEST)).st_mtime
        except FileNotFoundError:
            # Another process removed it after it was opened.
            used = 0.0
        return datetime.fromtimestamp(used, UTC)

    def touch(self) -> None:
        """Note that the entry is used now."""
        try:
            os.utime(self.path / MANIFEST)
        except OSError:
            # A library on a read-only disk can still be read.
            return

    def summary(self) -> dict[str, Any]:
        """Return what listings show of the entry."""
        return {**_facts(self.manifest), "last_used": self.last_used.isoformat(timespec="seconds")}

    def damage(self, *, thorough: bool = False) -> str | None:
        """Look for damage.

        Args:
            thorough: Hash every file instead of comparing sizes and the memory's header.

        Returns:
            What is wrong, or None.
        """
        names = self.manifest["files"].keys()
        if not NEEDED <= names <= FILES:
            return "manifest.json names other files than an entry has"
        for name, record in self.manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != record["bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes instead of {record['bytes']:,}"
            if thorough and file_sha256(path) != record.get("sha256"):
                return f"{name} is not what was written"
        return check_safetensors(self.memory_path)

    def pages(self) -> Iterator[dict[str, Any]]:
        """Read the stored pages: number, label, tokens, text."""
        with open(self.path / TEXT, encoding="utf-8", opener=at_once) as stream:
            for line in stream:
                yield json.loads(line)

    def pages_to_show(self) -> list[dict[str, Any]]:
        """Read the stored pages for somebody who asked for them.

        Raises:
            MissingMemoryError: If they cannot be read.
        """
        try:
            found = list(self.pages())
            if all(page.keys() >= _PAGE for page in found) and (self.path / TEXT).is_file():
                return found
        except (OSError, *UNREADABLE):
            pass
        raise MissingMemoryError(
            f"{self.manifest['document']['name']}: entry is damaged: {TEXT} cannot be read",
            hint=f"cca docs rm {self.key[:12]}, then read it again",
        )

    def read_document(self) -> Document:
        """Read the stored document without its tokens."""
        return document_from(self.manifest["document"], list(self.pages()))

    def read_text(self) -> StoredText:
        """Read the stored document with its tokens.

        Raises:
            OSError, UNREADABLE: If the files hold something else than what was written.
        """
        import numpy as np

        pages = list(self.pages())
        return StoredText(
            document=document_from(self.manifest["document"], pages),
            ids=np.load(self.path / TOKENS, allow_pickle=False),
            prefix_tokens=int(self.manifest["prefix_tokens"]),
            page_tokens=tuple(page["tokens"] for page in pages),
        )


def entry_row(path: Path) -> dict[str, Any] | None:
    """Return `Entry.summary` of the entry in a directory, read once; None as `Entry.open`."""
    try:
        with open(os.path.join(path, MANIFEST), "rb", opener=at_once) as stream:
            used = datetime.fromtimestamp(os.fstat(stream.fileno()).st_mtime, UTC)
            facts = _facts(json.loads(stream.read()))
    except (OSError, *UNREADABLE):
        return None
    return {**facts, "last_used": used.isoformat(timespec="seconds")}


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what listings show of a manifest; plain look-ups, for a thousand take part in one."""
    document, settings = manifest["document"], manifest["settings"]
    fingerprint = manifest["fingerprint"]
    if not (fingerprint.keys() >= _FINGERPRINT and settings.keys() <= _SETTINGS):
        raise KeyError("fingerprint or settings")
    texts = (document["name"], document["path"], manifest["created"])
    lists = (document["outline"], document["warnings"])
    if not all(isinstance(t, str) for t in texts) or not all(isinstance(i, list) for i in lists):
        raise TypeError("document")
    return {
        "key": str(manifest["key"]),
        "name": document["name"],
        "path": document["path"],
        "sha256": fingerprint["document_sha256"],
        "pages": int(manifest["pages"]),
        "selection": fingerprint["pages"],
        "tokens": int(manifest["tokens"]),
        "model": settings["model"],
        "group_size": settings["group_size"],
        "window": settings["window"],
        "dtype": settings["dtype"],
        "adapter": settings.get("adapter"),
        "bytes": int(sum(record["bytes"] for record in manifest["files"].values())),
        "created": manifest["created"],
        "state": "ready",
    }
