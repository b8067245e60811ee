"""Sentences, and passages: runs of a few sentences inside a page, which are found and read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cca_models.documents import Document

# A passage is about this long, some 130 tokens of English: long enough to hold a question's words
# and its answer, short enough that several fit the window beside each other.
PASSAGE_CHARACTERS = 560
# A longer sentence is quoted in part.
QUOTE_CHARACTERS = 320

# A sentence ends at a full stop and its like, with closing quotes or brackets, before white space
# and something that can begin a sentence; or at an empty line; or at a full stop of scripts that
# use no spaces.
_END = re.compile(
    r"""(?<![A-Z])(?<!\b[A-Z][a-z])(?<!\b(?:Mrs|Col|Gen|Rev|Vol|vol|fig|Fig|etc))[.!?…]+["'”’)\]]*\s+(?=["'“‘(\[]?[A-Z0-9ÀÁÂÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖØÙÚÛÜÝА-ЯΑ-Ω])"""
    r"""|\n\s*\n|[。！？]["'”’」』）]*"""
)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a page.

    Attributes:
        page: The page's place in its document, from 0.
        start: First character.
        end: One past the last.
        doc: The document's place among those that are read together.
    """

    page: int
    start: int
    end: int
    doc: int = 0


def sentences(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Cut a text, or a part of it, into sentences: first character and one past the last."""
    end = len(text) if end is None else end
    spans, at = [], start
    for match in _END.finditer(text, start, end):
        spans.append((at, match.end()))
        at = match.end()
    spans.append((at, end))
    return [trimmed for a, b in spans if (trimmed := _trim(text, a, b))]


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Take white space off both ends; None if nothing is left."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def cut_passages(document: Document, *, doc: int = 0) -> list[Span]:
    """Cut every page into passages. Together they hold every character that is not white space.

    Args:
        document: What is cut.
        doc: Its place among those that are read together.
    """
    passages = []
    for place, page in enumerate(document.pages):
        run: tuple[int, int] | None = None
        for start, end in _short(page.text, sentences(page.text), PASSAGE_CHARACTERS):
            if run is not None and end - run[0] > PASSAGE_CHARACTERS:
                passages.append(Span(place, *run, doc))
                run = None
            run = (start if run is None else run[0], end)
        if run is not None:
            passages.append(Span(place, *run, doc))
    return passages


def quotable(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Cut a part of a text into what can be quoted: sentences, or shorter runs of lines."""
    return _short(text, sentences(text, start, end), QUOTE_CHARACTERS)


def _short(text: str, spans: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Break what is too long (tables, lists, scripts without full stops) at line ends or spaces."""
    out = []
    for start, end in spans:
        while end - start > most:
            cut = text.rfind(" ", start + most // 2, start + most)
            line = text.rfind("\n", start + most // 2, start + most)
            cut = line if line > 0 else cut
            cut = cut if cut > 0 else start + most
            if trimmed := _trim(text, start, cut):
                out.append(trimmed)
            start = cut
        if trimmed := _trim(text, start, end):
            out.append(trimmed)
    return out
