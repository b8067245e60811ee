"""The body of a Word document, element by element, as blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cca_cli.documents.blocks import BlockWriter, one_line
from cca_cli.documents.cells import Tables
from cca_cli.documents.docx_styles import Numbering, ParagraphStyle, Styles, W, roman

__all__ = ["BodyReader"]

_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_SKIPPED = frozenset(
    {W + name for name in ("del", "moveFrom", "instrText", "delText", "delInstrText", "ffData",
                           "fldData", "sectPr", "tblPr", "tblGrid", "trPr", "tcPr", "rPr", "pPr",
                           "sdtPr")}
    | {_MC + "Fallback"}
    | {_M + name for name in ("rPr", "ctrlPr", "fPr", "radPr", "naryPr", "sSupPr", "sSubPr",
                              "dPr", "mPr", "sSubSupPr", "eqArrPr", "funcPr")}
)  # fmt: skip
_CHARACTERS = {
    W + "tab": "\t", W + "br": "\n", W + "cr": "\n", W + "noBreakHyphen": "-", W + "ptab": "\t",
}  # fmt: skip
# A formula on one line: what begins and what ends each of its parts.
_FORMULA = {
    _M + "num": ("(", ")"), _M + "den": ("/(", ")"), _M + "sup": ("^(", ")"),
    _M + "sub": ("_(", ")"), _M + "rad": ("√(", ")"), _M + "d": ("(", ")"),
    _M + "mr": ("", "; "), _M + "oMathPara": ("", ""),
}  # fmt: skip
# Nobody writes brackets around a single raised letter.
_SINGLE = re.compile(r"([_^])\((\w|∞)\)")
_NOTES = {
    W + "footnoteReference": "footnotes",
    W + "endnoteReference": "endnotes",
    W + "commentReference": "comments",
}


@dataclass(slots=True)
class _Paragraph:
    style: ParagraphStyle
    pieces: list[str] = field(default_factory=list)


class BodyReader:
    """Reads paragraphs and tables into blocks.

    Args:
        blocks: Where they go.
        styles: The document's styles.
        numbering: The document's lists.
        notes: Root elements of "footnotes", "endnotes" and "comments", None where there are none.
    """

    def __init__(
        self,
        blocks: BlockWriter,
        styles: Styles,
        numbering: Numbering,
        notes: Mapping[str, Any | None],
    ) -> None:
        self._blocks = blocks
        self._styles = styles
        self._numbering = numbering
        self._notes = {
            kind: {note.get(W + "id"): note for note in root} if root is not None else {}
            for kind, root in notes.items()
        }
        self._counts = dict.fromkeys(notes, 0)
        self._pending: list[str] = []
        self._paragraphs: list[_Paragraph] = []
        self._tables = Tables(blocks)
        self._in_list = False
        self._tight = ""

    def read(self, body: Any) -> None:
        """Read the body."""
        from lxml import etree

        walker = etree.iterwalk(body, events=("start", "end"))
        for event, element in walker:
            if event == "end":
                self._end(element)
            elif element.tag in _SKIPPED or _is_hidden(element):
                walker.skip_subtree()
            else:
                self._start(element)
        self._write_notes()

    def _start(self, element: Any) -> None:
        tag = element.tag
        if tag == W + "p":
            self._paragraphs.append(_Paragraph(self._styles.of(element.find(W + "pPr"))))
        elif tag == W + "tbl":
            self._tables.begin_table()
        elif tag == W + "tr":
            self._tables.begin_row()
        elif tag == W + "tc":
            self._tables.begin_cell()
        elif tag in (W + "t", _M + "t"):
            self._piece(element.text or "")
        elif tag in _CHARACTERS:
            self._piece(_CHARACTERS[tag])
        elif tag == W + "sym":
            code = element.get(W + "char") or ""
            if code.isascii() and code.isalnum():
                self._piece(_character(code))
        elif tag in _FORMULA:
            self._piece(_FORMULA[tag][0])
        elif tag == _M + "nary":
            self._piece(_operator(element))
        elif tag in _NOTES:
            self._note(_NOTES[tag], element.get(W + "id"))

    def _end(self, element: Any) -> None:
        tag = element.tag
        if tag in _SKIPPED:
            return
        if tag == W + "p" and self._paragraphs:
            self._end_paragraph(self._paragraphs.pop())
        elif tag == W + "tr":
            self._tables.end_row()
            self._in_list, self._tight = False, ""
        elif tag == W + "tbl":
            self._tables.end_table()
            if not self._tables:
                self._write_notes()
        elif tag in _FORMULA:
            self._piece(_FORMULA[tag][1])

    def _piece(self, text: str) -> None:
        if self._paragraphs:
            self._paragraphs[-1].pieces.append(text)

    def _end_paragraph(self, paragraph: _Paragraph) -> None:
        text = _SINGLE.sub(r"\1\2", "".join(paragraph.pieces))
        style = paragraph.style
        if not text.strip():
            return
        mark = self._numbering.mark(style.number) if style.number is not None else ""
        if self._tables.add(f"{mark} {text}" if mark else text):
            return
        listed = style.number is not None and bool(mark) and style.level is None
        close = (self._in_list and listed) or (style.tight != "" and style.tight == self._tight)
        if style.level is not None:
            self._blocks.heading(f"{mark} {text}", style.level)
        elif style.code:
            self._blocks.verbatim(text, close=close)
        else:
            indent = "  " * style.number[1] if listed and style.number is not None else ""
            self._blocks.paragraph(text, mark=f"{indent}{mark} " if mark else "", close=close)
        self._in_list, self._tight = listed, style.tight
        # A text box hangs in a paragraph of its own; that one's notes come after it.
        if not self._paragraphs:
            self._write_notes()

    def _note(self, kind: str, identity: str | None) -> None:
        note = self._notes[kind].get(identity)
        if note is None:
            return
        text = one_line(_plain_text(note))
        if kind == "comments":
            self._pending.append(f"[comment by {note.get(W + 'author') or 'a reader'}: {text}]")
            return
        self._counts[kind] += 1
        count = self._counts[kind]
        number = str(count) if kind == "footnotes" else roman(count)
        self._piece(f"[{number}]")
        self._pending.append(f"[{number}] {text}")

    def _write_notes(self) -> None:
        """Write the notes of the block before, below it as on a page."""
        pending, self._pending = self._pending, []
        for text in pending:
            self._blocks.paragraph(text)
            self._in_list, self._tight = False, ""


def _is_hidden(element: Any) -> bool:
    if element.tag != W + "r":
        return False
    properties = element.find(W + "rPr")
    hidden = properties.find(W + "vanish") if properties is not None else None
    return hidden is not None and hidden.get(W + "val") not in ("0", "false")


def _operator(nary: Any) -> str:
    told = nary.find(f"{_M}naryPr/{_M}chr")
    return "∫" if told is None else told.get(_M + "val") or ""


def _character(code: str) -> str:
    try:
        return chr(int(code, 16))
    except (ValueError, OverflowError):
        return ""


def _plain_text(note: Any) -> str:
    pieces: list[str] = []
    for element in note.iter(W + "t", W + "p", W + "tab", W + "br"):
        pieces.append(element.text or "" if element.tag == W + "t" else " ")
    return "".join(pieces)
