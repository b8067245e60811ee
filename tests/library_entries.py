"""Entries for tests of the library, made without a model."""

from __future__ import annotations

import numpy as np
from fake_engine import FakeMemory

from cca_cli.library import Library
from cca_cli.library_entry import Entry, Fingerprint, Settings, StoredText
from cca_models.documents import Document, OutlineEntry, Page

SETTINGS = Settings(model="tiny", group_size=16, window=1024, dtype="float32")
WANTED = Fingerprint(
    document_sha256="d" * 64,
    reading="rules +cca1, suffix .txt",
    pages="all",
    model="m" * 64,
    tokenizer="t" * 64,
    prefix_sha256="p" * 64,
)


def text_of(name: str = "book.txt", sha256: str = "d" * 64) -> StoredText:
    """Make a document of two pages and one without text."""
    document = Document(
        name=name,
        path=f"/shelf/{name}",
        sha256=sha256,
        format="text",
        reader="text +cca1",
        unit="page",
        pages=(
            Page(number=1, label="i", text="Äußerst \ud800 odd"),
            Page(number=2, label=None, text=""),
            Page(number=3, label="1", text="second"),
        ),
        outline=(OutlineEntry(title="Start", page=1, level=0),),
        warnings=("one odd page",),
    )
    ids = np.arange(12, dtype=np.uint32)
    return StoredText(document=document, ids=ids, prefix_tokens=2, page_tokens=(6, 0, 4))


def store(
    library: Library,
    fingerprint: Fingerprint = WANTED,
    settings: Settings = SETTINGS,
    name: str = "book.txt",
) -> Entry:
    """Store a memory of the document."""
    text = text_of(name, fingerprint.document_sha256)
    draft = library.open_draft(fingerprint, settings)
    draft.start(text)
    memory = FakeMemory(100, seen=12)
    before = FakeMemory(100, seen=8)
    return draft.finish(text, memory, library.path_of(fingerprint), before=before)
