"""Plain text: pages where form feeds mark them, else sections of about a page."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from cca_cli.documents.chapters import Heading, find_headings
from cca_cli.documents.encodings import decode
from cca_cli.documents.headed import document_of
from cca_cli.documents.normalise import TEXT_RULES, clean, fold
from cca_cli.documents.sections import cut, split_lines
from cca_cli.documents.source import Source
from cca_models.documents import Document, OutlineEntry, Page, Unit

__all__ = ["read_text"]

# Longer than any printed page: form feeds this far apart mark chapters or nothing.
MAX_PAGE = 12_000
# More than any printed work has.
MAX_PAGES = 50_000


def read_text(source: Source, *, pages: str | None = None, encoding: str | None = None) -> Document:
    """Read a plain-text file.

    Args:
        source: The file.
        pages: As in `read_document`; counts sections where there are no pages.
        encoding: As in `read_document`.

    Raises:
        InputError: If it is not text, or blank.
        UsageError: If `pages` or `encoding` ask for what there is not.
    """
    text, codec, notes = decode(source, encoding)
    # Line numbers in labels are those that an editor shows, so cleaning comes after counting.
    if 0 < text.count("\f") < MAX_PAGES and len(text) <= MAX_PAGE * (text.count("\f") + 1):
        unit: Unit = "page"
        found, entries = _by_form_feed(text)
    else:
        unit = "section"
        found, entries = _by_size(text.replace("\f", "\n"))
    return document_of(
        source,
        kind="text",
        reader=f"text {codec} {TEXT_RULES}",
        unit=unit,
        found=found,
        outline=entries,
        pages=pages,
        warnings=notes,
    )


def _by_form_feed(text: str) -> tuple[list[Page], list[OutlineEntry]]:
    parts = text.split("\f")
    if not parts[-1].strip():
        parts.pop()
    pages = [
        Page(number=number, label=None, text=_tidy(part).strip("\n"))
        for number, part in enumerate(parts, start=1)
    ]
    lines: list[str] = []
    firsts = []
    for part in parts:
        firsts.append(len(lines))
        # A page's end is as good as a blank line to set a heading apart.
        lines += [*split_lines(part), ""]
    return pages, _entries(find_headings(lines), firsts)


def _by_size(text: str) -> tuple[list[Page], list[OutlineEntry]]:
    lines = split_lines(text)
    headings = find_headings(lines)
    sections = cut(lines, breaks=frozenset(h.line for h in headings))
    pages = [
        Page(number=number, label=s.lines, text=_tidy(s.text))
        for number, s in enumerate(sections, start=1)
    ]
    return pages, _entries(headings, [s.first - 1 for s in sections])


def _entries(headings: Sequence[Heading], firsts: Sequence[int]) -> list[OutlineEntry]:
    """Return outline entries, given the index of the line on which each page begins."""
    return [
        OutlineEntry(title=_line(h.title), page=bisect_right(firsts, h.line), level=h.level)
        for h in headings
    ]


def _tidy(text: str) -> str:
    # A soft hyphen in a text file is invisible: where a word may be cut, not where it is.
    return fold(clean(text).replace("\u00ad\n", "").replace("\u00ad", ""))


def _line(text: str) -> str:
    return " ".join(_tidy(text).split())
