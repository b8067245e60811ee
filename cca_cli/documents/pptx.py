"""PowerPoint presentations: each slide a page, its title in the outline, its notes below it."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from cca_cli.documents.archives import Archive, damaged, open_archive
from cca_cli.documents.blocks import BlockWriter
from cca_cli.documents.cells import Tables
from cca_cli.documents.docx import related
from cca_cli.documents.headed import assemble
from cca_cli.documents.normalise import TEXT_RULES
from cca_cli.documents.source import Source
from cca_models.documents import Document

__all__ = ["read_pptx"]

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
# Date, number and foot recur on every slide.
_RUNNING = frozenset({"dt", "sldNum", "ftr", "hdr", "sldImg"})
_TITLES = frozenset({"title", "ctrTitle"})


def read_pptx(source: Source, *, pages: str | None = None) -> Document:
    """Read a presentation.

    Args:
        source: The file.
        pages: As in `read_document`; counts slides.

    Raises:
        InputError: If it is damaged or has no text.
        UsageError: If `pages` names what there is not.
    """
    blocks = BlockWriter()
    charts = 0
    with open_archive(source) as archive:
        main = next(iter(related(archive, "", "officeDocument").values()), "ppt/presentation.xml")
        slides = related(archive, main, "slide")
        # The same slide twice in the list would be read twice.
        order = dict.fromkeys(
            slides[entry.get(_R + "id")]
            for entry in archive.read_xml(main).iter(_P + "sldId")
            if entry.get(_R + "id") in slides
        )
        if not order:
            raise damaged(source, "it has no slides")
        for name in order:
            blocks.page(None)
            _Slide(blocks).read(archive.read_xml(name))
            for part in related(archive, name, "diagramData").values():
                _Slide(blocks).read(archive.read_xml(part))
            charts += len(related(archive, name, "chart"))
            _read_notes(blocks, archive, name)
    return assemble(
        source,
        blocks,
        kind="pptx",
        reader=f"pptx lxml {metadata.version('lxml')} {TEXT_RULES}",
        pages=pages,
        warnings=[f"the figures of {charts} charts are not read"] if charts else [],
    )


def _read_notes(blocks: BlockWriter, archive: Archive, slide: str) -> None:
    for name in related(archive, slide, "notesSlide").values():
        notes = BlockWriter()
        _Slide(notes).read(archive.read_xml(name))
        text = "\n".join(line for line in notes.lines if line)
        if text:
            blocks.paragraph(f"Notes: {text}")


class _Slide:
    """Reads one slide's shapes into blocks, in their order, titles as headings."""

    def __init__(self, blocks: BlockWriter) -> None:
        self._blocks = blocks
        self._tables = Tables(blocks)
        self._pieces: list[str] | None = None
        self._level = 0
        self._kind = ""
        self._first = True

    def read(self, root: Any) -> None:
        """Read a slide."""
        from lxml import etree

        walker = etree.iterwalk(root, events=("start", "end"))
        for event, element in walker:
            if event == "end":
                self._end(element.tag)
            elif element.tag == _FALLBACK or self._is_running(element):
                walker.skip_subtree()
            else:
                self._start(element)

    def _is_running(self, element: Any) -> bool:
        if element.tag != _P + "sp":
            return False
        place = next(element.iter(_P + "ph"), None)
        self._kind = (place.get("type") or "body") if place is not None else ""
        self._first = True
        return self._kind in _RUNNING

    def _start(self, element: Any) -> None:
        tag = element.tag
        if tag == _A + "p":
            properties = element.find(_A + "pPr")
            level = properties.get("lvl") if properties is not None else None
            self._level = int(level) if level in tuple("12345678") else 0
            self._pieces = []
        elif tag == _A + "t" and self._pieces is not None:
            self._pieces.append(element.text or "")
        elif tag == _A + "br" and self._pieces is not None:
            self._pieces.append("\n")
        elif tag == _A + "tbl":
            self._tables.begin_table()
        elif tag == _A + "tr":
            self._tables.begin_row()
        elif tag == _A + "tc":
            self._tables.begin_cell()

    def _end(self, tag: str) -> None:
        if tag == _A + "p" and self._pieces is not None:
            text, self._pieces = "".join(self._pieces), None
            self._paragraph(text)
        elif tag == _A + "tr":
            self._tables.end_row()
        elif tag == _A + "tbl":
            self._tables.end_table()
        elif tag == _P + "sp":
            self._kind = ""

    def _paragraph(self, text: str) -> None:
        if not text.strip() or self._tables.add(text):
            return
        if self._kind in _TITLES:
            self._blocks.heading(text, 0)
            return
        mark = "  " * (self._level - 1) + "- " if self._level else ""
        self._blocks.paragraph(text, mark=mark, close=not self._first)
        self._first = False
