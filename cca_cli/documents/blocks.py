"""What a structured document is made of, as lines: paragraphs, headings, lists, table rows.

HTML, EPUB, DOCX, ODT and PPTX all end up here. A writer collects lines and remembers which of
them begin a block, a heading or a page; headed.py then cuts the lines into sections.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cca_cli.documents.normalise import clean, fold

__all__ = ["BlockWriter", "Heading", "one_line", "table_row"]

_BLANKS = re.compile(r"[ \t]+")
CELL_MARK = " | "


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: its first line, the line after it, its title, and its level from 0."""

    line: int
    body: int
    title: str
    level: int


@dataclass(slots=True)
class BlockWriter:
    """Collects the blocks of a document as lines.

    Attributes:
        lines: The text so far, with a blank line between blocks.
        headings: Headings so far.
        starts: Lines at which a block begins, where a section may be cut.
        anchors: Line at which a named place begins, by its name.
        pages: Line at which a page begins, and its printed label.
    """

    lines: list[str] = field(default_factory=list)
    headings: list[Heading] = field(default_factory=list)
    starts: set[int] = field(default_factory=set)
    anchors: dict[str, int] = field(default_factory=dict)
    pages: list[tuple[int, str | None]] = field(default_factory=list)

    def paragraph(self, text: str, *, mark: str = "", close: bool = False) -> None:
        """Add a paragraph.

        Args:
            text: Raw text; its line ends are kept.
            mark: What its first line begins with, a list item's number; the others are indented
                as far.
            close: Whether it follows the block before it without a blank line between, as the
                items of a list and the rows of a table do.
        """
        text = tidy(text)
        if not text:
            return
        self._follow(close)
        first, *others = text.split("\n")
        indent = " " * len(mark)
        self.lines += [mark + first, *(indent + line if line else "" for line in others), ""]

    def heading(self, text: str, level: int) -> None:
        """Add a heading of a level from 0."""
        title = one_line(text)
        if not title:
            return
        at = len(self.lines)
        self.starts.add(at)
        self.lines += [title, ""]
        self.headings.append(Heading(at, at + 1, title, level))

    def row(self, cells: Sequence[str], *, first: bool) -> None:
        """Add a row of a table; `first` says that the table begins with it."""
        line = table_row(cells)
        if line:
            self.paragraph(line, close=not first)

    def verbatim(self, text: str, *, close: bool = False) -> None:
        """Add text in which spaces and line ends mean something: program code, verse."""
        lines = [line.rstrip() for line in clean(text).split("\n")]
        while lines and not lines[0]:
            lines.pop(0)
        while lines and not lines[-1]:
            lines.pop()
        if not lines:
            return
        self._follow(close)
        self.lines += [*lines, ""]

    def _follow(self, close: bool) -> None:
        """Begin a block, without a blank line before it if it follows closely."""
        # A page's or a heading's place must not move.
        bound = max(
            self.pages[-1][0] if self.pages else 0, self.headings[-1].body if self.headings else 0
        )
        if close and len(self.lines) > bound + 1 and not self.lines[-1]:
            self.lines.pop()
        self.starts.add(len(self.lines))

    def anchor(self, name: str) -> None:
        """Remember that a named place is here; the first place of a name counts."""
        self.anchors.setdefault(name, len(self.lines))

    def page(self, label: str | None) -> None:
        """Remember that a page begins here."""
        self.pages.append((len(self.lines), label))


def tidy(text: str) -> str:
    """Clean a block's text: characters, runs of blanks, blanks at the ends of lines."""
    # A soft hyphen in these formats says where a word may be cut, not where it is.
    text = fold(clean(text).replace("\u00ad", ""), spaces=True)
    return "\n".join(_BLANKS.sub(" ", line).strip() for line in text.split("\n")).strip("\n")


def one_line(text: str) -> str:
    """Return cleaned text on one line."""
    return " ".join(tidy(text).split())


def table_row(cells: Sequence[str]) -> str:
    """Return a table's row as one line, its cells set apart by bars; empty if all are blank."""
    texts = [one_line(cell) for cell in cells]
    return CELL_MARK.join(texts).strip() if any(texts) else ""
