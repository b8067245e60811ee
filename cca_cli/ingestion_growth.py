"""Documents that grow at their end, logs and notes: only what is new is read.

What was read before is recognised by its token ids, never by dates or sizes: the memory of the
old text serves for as many tokens as old and new text have in common from the start. The last
few always differ, since the old text ended there; the entry's margin takes the memory back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cca_cli.library import Library
from cca_cli.library_entry import Entry, Fingerprint, StoredText

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cca_models.engine import LanguageModel
    from cca_models.memory import Memory

__all__ = ["MARGIN_TOKENS", "Grown", "find_grown", "memory_of"]

MARGIN_TOKENS = 32
"""How far a stored memory can go back. Where a text is continued, the tokenizer cuts its last word
and line end anew, and hardly ever more."""

_CANDIDATES = 4


@dataclass(frozen=True, slots=True)
class Grown:
    """An entry whose text is the beginning of the wanted one.

    Attributes:
        entry: The entry.
        tokens: Token ids that both have in common from the start.
    """

    entry: Entry
    tokens: int


def find_grown(library: Library, wanted: Fingerprint, path: str, text: StoredText) -> Grown | None:
    """Look for the entry of an earlier, shorter version of a document.

    Args:
        library: The library.
        wanted: What there is no entry of.
        path: Absolute path of the document, or "-": versions are looked for under it alone.
        text: The document as it is now.

    Returns:
        The entry with the most in common; None if none is the beginning of the document.
    """
    import numpy as np

    older = [
        entry
        for entry in library.entries()
        if entry.manifest["document"]["path"] == path
        and replace(entry.fingerprint, document_sha256=wanted.document_sha256) == wanted
    ]
    older.sort(key=lambda entry: entry.last_used, reverse=True)
    found: Grown | None = None
    for entry in older[:_CANDIDATES]:
        try:
            had = np.load(entry.path / "tokens.npy", allow_pickle=False)
        except (OSError, ValueError):
            continue
        common = _common(had, text.ids)
        reaches = common >= len(had) - MARGIN_TOKENS and 0 < common < len(text.ids)
        if reaches and (found is None or common > found.tokens):
            found = Grown(entry, common)
    return found


def _common(a: npt.NDArray[np.uint32], b: npt.NDArray[np.uint32]) -> int:
    """Count the ids that two texts have in common from the start."""
    length = min(len(a), len(b))
    differ = (a[:length] != b[:length]).nonzero()[0]
    return int(differ[0]) if len(differ) else length


def memory_of(grown: Grown, memory: Memory, model: LanguageModel, capacity: int) -> Memory | None:
    """Take the memory of an earlier version back to what it has in common with the new one.

    Args:
        grown: The earlier version.
        memory: Its memory.
        model: What reads.
        capacity: Tokens that the memory must be able to hold.

    Returns:
        A memory of exactly ``grown.tokens`` tokens, like one that had been made for the new text;
        None if there is none.
    """
    # The engine imports torch.
    from cca_models.errors import ContextTooLongError, MemoryFileError

    try:
        fresh = model.new_memory(capacity)
    except ContextTooLongError:
        return None
    # Positions that are stretched with the length of the text differ from the old text's.
    if memory.capacity < capacity or fresh.stretch != memory.stretch:
        return None
    if memory.seen == grown.tokens:
        return memory
    margin = grown.entry.margin_path
    if margin is None or memory.seen < grown.tokens:
        return None
    try:
        return memory.rewound(margin, grown.tokens, model)
    except MemoryFileError:
        return None
