"""What a manifest says: the document but for its pages, and a seal over the whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cca_models.documents import Document

__all__ = ["SEAL", "document_from", "document_record", "outline_of", "seal", "seal_of"]

SEAL = "seal"
"""Where a manifest keeps the digest of everything else in it."""


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the digest of all that it says."""
    return {**manifest, SEAL: seal_of(manifest)}


def seal_of(manifest: Mapping[str, Any]) -> str:
    """Return the digest of what a manifest says, its own seal left out; SHA-256, hex."""
    content = {name: value for name, value in manifest.items() if name != SEAL}
    # Lone surrogates are kept as escapes, as in the file.
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def document_from(record: Mapping[str, Any], pages: Sequence[Mapping[str, Any]]) -> Document:
    """Build a document from its record in the manifest and its stored pages."""
    from cca_models.documents import Document, OutlineEntry, Page

    return Document(
        name=record["name"],
        path=record["path"],
        sha256=record["sha256"],
        format=record["format"],
        reader=record["reader"],
        unit=record["unit"],
        pages=tuple(Page(number=p["number"], label=p["label"], text=p["text"]) for p in pages),
        outline=tuple(OutlineEntry(**entry) for entry in outline_of(record)),
        warnings=tuple(record["warnings"]),
    )


def outline_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the outline in a document's record: title, page and level of every entry."""
    return [_outline_entry(stored) for stored in record["outline"]]


def _outline_entry(stored: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(stored, dict):
        # As the first release wrote it.
        return stored
    level, page, title = stored.split(" ", 2)
    return {"title": title, "page": int(page), "level": int(level)}


def document_record(document: Document) -> dict[str, Any]:
    """Return what the manifest says of a document: all but its pages."""
    return {
        "name": document.name,
        "path": document.path,
        "sha256": document.sha256,
        "format": document.format,
        "reader": document.reader,
        "unit": document.unit,
        # A listing reads a thousand manifests: strings cost it a tenth of what objects do.
        "outline": [f"{entry.level} {entry.page} {entry.title}" for entry in document.outline],
        "warnings": list(document.warnings),
    }
