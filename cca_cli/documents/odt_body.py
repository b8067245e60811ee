"""The body of an OpenDocument text, element by element, as blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cca_cli.documents.blocks import BlockWriter, one_line
from cca_cli.documents.cells import Tables
from cca_cli.documents.odt_styles import TEXT, Styles

__all__ = ["BodyReader"]

TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
DC = "{http://purl.org/dc/elements/1.1/}"
HREF = "{http://www.w3.org/1999/xlink}href"
_SKIPPED = frozenset(
    {TEXT + "tracked-changes", TEXT + "note-citation", TEXT + "ruby-text", DC + "date",
     DC + "creator", OFFICE + "forms", TEXT + "sequence-decls", TEXT + "bibliography-source"}
)  # fmt: skip
# One element may stand for any number of spaces or cells.
MAX_SPACES = 100
MAX_CELLS = 100


@dataclass(slots=True)
class _Paragraph:
    style: str
    level: int | None
    pieces: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _List:
    style: str | None
    items: int = 0


@dataclass(slots=True)
class _Note:
    mark: str
    texts: list[str] = field(default_factory=list)


class BodyReader:
    """Reads paragraphs, lists and tables into blocks.

    Args:
        blocks: Where they go.
        styles: The document's styles.
        formula: Returns the text of an embedded formula by its reference.
    """

    def __init__(self, blocks: BlockWriter, styles: Styles, formula: Callable[[str], str]) -> None:
        self._blocks = blocks
        self._styles = styles
        self._formula = formula
        self._paragraphs: list[_Paragraph] = []
        self._lists: list[_List] = []
        self._notes: list[_Note] = []
        self._pending: list[str] = []
        self._tables = Tables(blocks)
        self._mark = ""
        self._in_list = False

    def read(self, body: Any) -> None:
        """Read the body."""
        from lxml import etree

        walker = etree.iterwalk(body, events=("start", "end"))
        for event, element in walker:
            if event == "start":
                if element.tag in _SKIPPED:
                    walker.skip_subtree()
                else:
                    self._start(element)
                    self._piece(element.text)
            else:
                if element.tag not in _SKIPPED:
                    self._end(element.tag)
                self._piece(element.tail)
        self._write_notes()

    def _start(self, element: Any) -> None:
        tag = element.tag
        if tag in (TEXT + "p", TEXT + "h"):
            level = _count(element.get(TEXT + "outline-level"), 10) if tag == TEXT + "h" else None
            style = self._styles.named(element.get(TEXT + "style-name"))
            self._paragraphs.append(_Paragraph(style, 1 if style == "Title" else level))
        elif tag == TEXT + "list":
            around = self._lists[-1].style if self._lists else None
            self._lists.append(_List(element.get(TEXT + "style-name") or around))
        elif tag == TEXT + "list-item" and self._lists:
            self._lists[-1].items += 1
            numbered = self._styles.is_numbered(self._lists[-1].style, len(self._lists) - 1)
            self._mark = f"{self._lists[-1].items}. " if numbered else "- "
        elif tag == TEXT + "s":
            self._piece(" " * _count(element.get(TEXT + "c"), MAX_SPACES))
        elif tag == TEXT + "tab":
            self._piece("\t")
        elif tag == TEXT + "line-break":
            self._piece("\n")
        elif tag == TEXT + "note":
            citation = element.find(TEXT + "note-citation")
            mark = one_line("".join(citation.itertext())) if citation is not None else "*"
            self._piece(f"[{mark}]")
            self._notes.append(_Note(f"[{mark}] "))
        elif tag == OFFICE + "annotation":
            author = one_line(element.findtext(DC + "creator") or "a reader")
            self._notes.append(_Note(f"comment by {author}: "))
        elif tag == TABLE + "table":
            self._tables.begin_table()
        elif tag == TABLE + "table-row":
            self._tables.begin_row()
        elif tag in (TABLE + "table-cell", TABLE + "covered-table-cell"):
            for _ in range(_count(element.get(TABLE + "number-columns-repeated"), MAX_CELLS)):
                self._tables.begin_cell()
        elif tag == DRAW + "object" and element.get(HREF):
            self._piece(self._formula(element.get(HREF)))

    def _end(self, tag: str) -> None:
        if tag in (TEXT + "p", TEXT + "h") and self._paragraphs:
            self._end_paragraph(self._paragraphs.pop())
        elif tag == TEXT + "list" and self._lists:
            self._lists.pop()
            self._mark = ""
            self._in_list = self._in_list and bool(self._lists)
        elif tag == TEXT + "note" and self._notes:
            note = self._notes.pop()
            self._pending.append(note.mark + " ".join(note.texts))
        elif tag == OFFICE + "annotation" and self._notes:
            note = self._notes.pop()
            self._pending.append(f"[{note.mark}{' '.join(note.texts)}]")
        elif tag == TABLE + "table-row":
            self._tables.end_row()
        elif tag == TABLE + "table":
            self._tables.end_table()
            self._in_list = False
            if not self._tables:
                self._write_notes()

    def _piece(self, text: str | None) -> None:
        if text and self._paragraphs:
            self._paragraphs[-1].pieces.append(text)

    def _end_paragraph(self, paragraph: _Paragraph) -> None:
        text = "".join(paragraph.pieces)
        if not text.strip():
            return
        if self._notes:
            self._notes[-1].texts.append(one_line(text))
            return
        mark, self._mark = self._mark, " " * len(self._mark)
        if self._tables.add(mark + text if mark.strip() else text):
            return
        if paragraph.level is not None:
            self._blocks.heading(text, paragraph.level - 1)
        elif paragraph.style == "Preformatted_20_Text":
            self._blocks.verbatim(text, close=True)
        else:
            indent = "  " * (len(self._lists) - 1)
            self._blocks.paragraph(text, mark=indent + mark, close=self._in_list)
        self._in_list = bool(self._lists)
        # A text box hangs in a paragraph of its own; that one's notes come after it.
        if not self._paragraphs:
            self._write_notes()

    def _write_notes(self) -> None:
        """Write the notes of the block before, below it as on a page."""
        pending, self._pending = self._pending, []
        for text in pending:
            self._blocks.paragraph(text)
            self._in_list = False


def _count(text: str | None, most: int) -> int:
    """Return a count from an attribute: 1 if it is missing or no number."""
    if text is None or not (text.isascii() and text.isdigit()):
        return 1
    return max(1, min(int(text[:9]), most))
