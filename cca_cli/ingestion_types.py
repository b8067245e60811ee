"""What opening a document gives, and what is told before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cca_cli.errors import InputError
from cca_cli.library_entry import Entry, StoredText
from cca_cli.library_locks import Lease

if TYPE_CHECKING:
    from cca_models.documents import Document
    from cca_models.memory import Memory

__all__ = ["FileChangedError", "OpenDocument", "Plan"]


class FileChangedError(InputError):
    """A file that holds something else than it did a moment ago."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name}: the file changed while it was being read", hint="run the same command again"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be read, told before it costs anything.

    Attributes:
        name: Name of the document.
        tokens: Tokens to read now.
        reason: Why the library cannot serve it.
        seconds: Estimate of how long reading takes.
    """

    name: str
    tokens: int
    reason: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenDocument:
    """A document with its memory.

    Attributes:
        text: The document, its token ids and page spans.
        memory: The memory of all of `text.ids`; fork it before use.
        hit: Whether it came from the library.
        reason: Why it did not; None on a hit.
        entry: The library's entry; None with the cache off.
        timing_s: Seconds of each stage that ran.
        lease: Keeps the entry from being removed to make room, as long as this object lives.
    """

    text: StoredText
    memory: Memory
    hit: bool
    reason: str | None
    entry: Entry | None
    timing_s: Mapping[str, float]
    lease: Lease | None = field(default=None, repr=False, compare=False)

    @property
    def document(self) -> Document:
        """Pages, labels and outline."""
        return self.text.document

    def cache_json(self) -> dict[str, object]:
        """Return the ``cache`` object of JSON output."""
        return {
            "hit": self.hit,
            "reason": self.reason,
            "bytes": self.entry.nbytes if self.entry else None,
            "entry": self.entry.key if self.entry else None,
        }
