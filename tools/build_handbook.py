"""Build docs/handbook.pdf from the pages in docs/.

    python tools/build_handbook.py            writes docs/handbook.pdf
    python tools/build_handbook.py --check    exits with 1 if that file is missing or out of date

The title page and the contents are numbered i, ii, ...; the chapters start again at 1. So printed
numbers and counted pages differ, as they do in most books, and the handbook serves as a test of
citations. The same pages give the same bytes.
"""

import argparse
import io
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import handbook_style as style
from handbook_flowables import Heading, Page
from pypdf import PdfReader
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    Flowable,
    Frame,
    NextPageTemplate,
    PageBreak,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
)
from reportlab.platypus.tableofcontents import TableOfContents

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = "handbook.pdf"
# Pages that are not named here follow in the order of their names.
ORDER = ("index", "method", "cli", "design", "benchmarks", "quality", "contributing")
TITLE = "The cca handbook"
SUBTITLE = "Reading very long documents with core context aware attention"


class Contents(TableOfContents):
    """The table of contents: linked titles and printed numbers, in the order of reading.

    The base class draws numbers before titles and fills the lines with dots, and so they would be
    extracted.
    """

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        """Lay out the entries of the pass before."""
        chapter = ParagraphStyle("toc 1", parent=style.TEXT, fontName="Body-Bold", spaceAfter=0)
        section = ParagraphStyle("toc 2", parent=style.CELL, fontSize=8.4, leftIndent=14)
        rows, spaces = [], []
        for row, (level, title, printed, key) in enumerate(self._lastEntries or [(0, "", 0, "")]):
            link = f"<a href={quoteattr('#' + key)}>{escape(title)}</a>" if key else ""
            look = section if level else chapter
            number = ParagraphStyle("toc number", parent=look, alignment=TA_RIGHT)
            rows.append([Paragraph(link, look), Paragraph(str(printed), number)])
            if not level:
                spaces += [
                    ("TOPPADDING", (0, row), (-1, row), 9),
                    ("LINEBELOW", (0, row), (-1, row), 0.4, style.RULE),
                ]
        self._table = Table(rows, colWidths=(width - 30, 30))
        self._table.setStyle(
            [
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("RIGHTPADDING", (0, 0), (-1, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 1),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
                *spaces,
            ]
        )
        self.width, self.height = self._table.wrapOn(self.canv, width, height)
        return self.width, self.height


class Handbook(BaseDocTemplate):
    """The document: page templates, page labels, outline and running foot."""

    def __init__(self, target: io.BytesIO) -> None:
        super().__init__(
            target, pagesize=style.PAGE_SIZE, title=TITLE, subject=SUBTITLE,
            author="The cca authors", lang="en-GB", invariant=1, pageCompression=1,
        )  # fmt: skip
        width, height = style.PAGE_SIZE
        frame = Frame(
            style.MARGIN, 52, width - 2 * style.MARGIN, height - 52 - 44, 0, 0, 0, 0, id="text"
        )
        self.addPageTemplates(
            [
                PageTemplate("title", [frame], onPage=self._start_front),
                PageTemplate("front", [frame], onPageEnd=self._foot),
                PageTemplate("body", [frame], onPage=self._start_body, onPageEnd=self._foot),
            ]
        )

    def beforeDocument(self) -> None:
        """Forget what the pass before has seen; the contents need two passes or more."""
        self.front_pages = 0
        self.chapter = "Contents"
        self.depth = -1

    def afterFlowable(self, flowable: Flowable) -> None:
        """Put a heading into the outline, and down to sections into the contents."""
        if not isinstance(flowable, Heading):
            return
        self.depth = min(flowable.level - 1, self.depth + 1)  # the outline may not skip a level
        self.canv.bookmarkPage(flowable.key)
        self.canv.addOutlineEntry(flowable.title, flowable.key, self.depth, closed=self.depth > 0)
        if self.depth == 0:
            self.chapter = flowable.title
        if self.front_pages and self.depth < 2:
            printed = self.page - self.front_pages
            self.notify("TOCEntry", (self.depth, flowable.title, printed, flowable.key))

    def _start_front(self, canvas: Canvas, _doc: BaseDocTemplate) -> None:
        canvas.addPageLabel(0, "ROMAN_LOWER", start=1)
        canvas.showOutline()

    def _start_body(self, canvas: Canvas, _doc: BaseDocTemplate) -> None:
        if not self.front_pages:
            self.front_pages = self.page - 1
            canvas.addPageLabel(self.front_pages, "ARABIC", start=1)

    def _foot(self, canvas: Canvas, _doc: BaseDocTemplate) -> None:
        printed = str(self.page - self.front_pages) if self.front_pages else roman(self.page)
        canvas.saveState()
        canvas.setFont("Body", 7)
        canvas.setFillColor(style.INK)
        canvas.drawString(style.MARGIN, 30, self.chapter)
        canvas.drawRightString(style.PAGE_SIZE[0] - style.MARGIN, 30, printed)
        canvas.restoreState()


def roman(number: int) -> str:
    """Write a small number in lower-case Roman digits."""
    digits = {10: "x", 9: "ix", 5: "v", 4: "iv", 1: "i"}
    text = ""
    for value, sign in digits.items():
        text += sign * (number // value)
        number %= value
    return text


def front_matter() -> list[Flowable]:
    """Make the title page and the table of contents."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    big = ParagraphStyle("title", parent=style.HEADINGS[1], fontSize=24, leading=32)
    sub = ParagraphStyle("subtitle", parent=style.TEXT, fontSize=11, leading=16)
    return [
        Spacer(0, 130),
        Paragraph(TITLE, big),
        Paragraph(SUBTITLE, sub),
        Spacer(0, 24),
        Paragraph(f"Version {version}. Licence: Apache-2.0.", style.TEXT),
        NextPageTemplate("front"),
        PageBreak(),
        Heading("Contents", title="Contents", level=1, key="contents"),
        Contents(),
        NextPageTemplate("body"),
    ]


def build(docs: Path) -> bytes:
    """Build the handbook from the Markdown pages of a folder and return the PDF.

    Raises:
        HandbookError: If a page holds something that cannot be printed.
    """
    style.register_fonts()
    files = sorted(
        docs.glob("*.md"),
        key=lambda path: (ORDER.index(path.stem) if path.stem in ORDER else len(ORDER), path.stem),
    )
    pages = [Page(path, number=number) for number, path in enumerate(files, 1)]
    anchors = {key for page in pages for key in page.keys}
    story = front_matter()
    for page in pages:
        story += [PageBreak(), *page.flowables(anchors)]
    target = io.BytesIO()
    Handbook(target).multiBuild(story)
    return target.getvalue()


def content(pdf: bytes) -> tuple[list[str], list[str], list[str]]:
    """Give what a reader of the PDF sees: texts and labels of the pages, titles of the outline.

    Bytes are not compared between machines, since versions of zlib and reportlab change them.
    """
    reader = PdfReader(io.BytesIO(pdf))

    def titles(entries: list[Any]) -> list[str]:
        return [
            title
            for entry in entries
            for title in (titles(entry) if isinstance(entry, list) else [entry.title])
        ]

    return (
        [page.extract_text() for page in reader.pages],
        reader.page_labels,
        titles(reader.outline),
    )


def stale(docs: Path) -> bool:
    """Tell whether the handbook in a folder is missing or differs from the pages beside it."""
    committed = docs / OUTPUT
    return not committed.exists() or content(committed.read_bytes()) != content(build(docs))


def main() -> int:
    """Write the handbook, or with --check compare it."""
    parser = argparse.ArgumentParser(description="Build docs/handbook.pdf from docs/*.md.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    docs = ROOT / "docs"
    try:
        if not check:
            (docs / OUTPUT).write_bytes(build(docs))
        elif stale(docs):
            print("handbook: error: docs/handbook.pdf differs from docs/*.md", file=sys.stderr)
            print("hint: python tools/build_handbook.py", file=sys.stderr)
            return 1
    except style.HandbookError as error:
        print(f"handbook: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
