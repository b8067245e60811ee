"""From an HTML tree to blocks: what a browser would show as text, with its structure.

The tree is walked without recursion, since a page may nest deeper than Python's stack. Left out
is what no reader sees: scripts, styles, hidden elements, buttons.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cca_cli.documents.blocks import BlockWriter, one_line
from cca_cli.documents.html_elements import (
    BLOCKS,
    HEADINGS,
    LISTS,
    SKIPPED,
    is_hidden,
    is_note_mark,
    is_page_break,
)
from cca_cli.documents.html_tables import table_rows

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

__all__ = ["HtmlWalker"]

_SPACE = re.compile(r"[ \t\n\r\f]+")
_BREAKS = re.compile(r" *\n *")
_FILE_NAME = re.compile(r"\.(?:png|jpe?g|gif|svg|webp|bmp|tiff?)$", re.I)
_RAISED = str.maketrans("0123456789+-−()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾ⁿ")
_DIGITS = re.compile(r"[+\-−]?\d{1,9}")
MAX_INDENT = 8


class HtmlWalker:
    """Writes the blocks of one HTML tree.

    Args:
        blocks: Where they go.
        place: What the anchors' names begin with ("chapter.xhtml").
        skip: Further elements to leave out.
    """

    def __init__(
        self, blocks: BlockWriter, *, place: str = "", skip: frozenset[str] = frozenset()
    ) -> None:
        self._blocks = blocks
        self._place = place
        self._skip = SKIPPED | skip
        self._inline: list[str] = []
        # One for each open list: the number of the next item, None for bullets.
        self._lists: list[int | None] = []
        self._mark = ""
        self._joined = False
        # The blocks that are open, and whether the last text stood in one without margins.
        self._open_tags: list[str] = []
        self._tight = False
        self._pre = 0

    def walk(self, root: LexborNode) -> None:
        """Write what an element holds."""
        node: LexborNode | None = root
        depth = 0
        while node is not None:
            if self._enter(node):
                if (child := node.child) is not None:
                    node, depth = child, depth + 1
                    continue
                self._leave(node)
            while depth and node.next is None:
                node, depth = node.parent, depth - 1
                assert node is not None
                self._leave(node)
            node = node.next if depth else None
        self._flush()

    def _enter(self, node: LexborNode) -> bool:
        """Begin a node; return whether to go into it."""
        tag = node.tag or ""
        if tag == "-text":
            self._text(node.text_content or "")
            return False
        if tag in self._skip:
            return False
        attributes = node.attributes
        if is_hidden(tag, attributes):
            return False
        if name := attributes.get("id") or (attributes.get("name") if tag == "a" else None):
            self._blocks.anchor(f"{self._place}#{name}")
        if is_page_break(attributes):
            self._page_break(node, attributes)
            return False
        if tag == "table":
            self._flush()
            return not self._table(node)
        if tag in ("img", "image"):
            self._image(attributes)
        elif tag == "math":
            return self._math(attributes)
        elif tag == "br":
            self._inline.append("\n")
        elif is_note_mark(tag, node, attributes):
            self._inline.append(f"[{node.text().strip()}]")
            return False
        elif tag == "sup" and _DIGITS.fullmatch(raised := node.text().strip()):
            # "10³", where "103" would be another number.
            self._inline.append(raised.translate(_RAISED))
            return False
        elif tag == "rt":
            self._inline.append("(")
        elif tag in BLOCKS or tag in HEADINGS or tag == "pre":
            self._flush()
            self._open(tag, attributes)
            self._open_tags.append(tag)
        return True

    def _open(self, tag: str, attributes: dict[str, str | None]) -> None:
        if tag == "pre":
            self._pre += 1
        elif tag in LISTS:
            self._joined = bool(self._lists)
            start = attributes.get("start") or "1"
            counted = tag == "ol" and start.isascii() and start.isdigit()
            self._lists.append(int(start[:9]) if counted else None)
        elif tag == "li":
            number = self._lists[-1] if self._lists else None
            self._mark = "- " if number is None else f"{number}. "
            if number is not None:
                self._lists[-1] = number + 1
        elif tag == "dd":
            self._joined = True

    def _leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if self._open_tags and self._open_tags[-1] == tag:
            self._close(tag)
            self._open_tags.pop()
        elif tag == "rt":
            self._inline.append(")")

    def _close(self, tag: str) -> None:
        if tag in HEADINGS:
            self._blocks.heading(_SPACE.sub(" ", "".join(self._inline)), HEADINGS[tag])
            self._inline.clear()
        elif tag == "pre":
            self._pre -= 1
            self._blocks.verbatim("".join(self._inline))
            self._inline.clear()
        else:
            self._flush()
            if tag in LISTS and self._lists:
                self._lists.pop()
                self._joined = bool(self._lists)
            if tag in LISTS or tag == "li":
                self._mark = ""

    def _text(self, text: str) -> None:
        self._inline.append(text if self._pre else _SPACE.sub(" ", text))

    def _flush(self) -> None:
        text = "".join(self._inline)
        self._inline.clear()
        if self._pre:
            self._blocks.verbatim(text)
            return
        text = _BREAKS.sub("\n", text).strip()
        if not text:
            return
        indent = "  " * min(len(self._lists) - 1, MAX_INDENT)
        # Lines of verse and of addresses: a div has no margins, a paragraph has.
        tight = bool(self._open_tags) and self._open_tags[-1] == "div"
        close = self._joined or (tight and self._tight)
        self._blocks.paragraph(text, mark=indent + self._mark, close=close)
        self._tight = tight
        # What follows in the same item stands below the item's text, without its mark.
        self._mark = " " * len(self._mark)
        self._joined = bool(self._lists)

    def _image(self, attributes: dict[str, str | None]) -> None:
        text = one_line(attributes.get("alt") or "")
        if not any(c.isalnum() for c in text) or _FILE_NAME.search(text):
            return
        # A letter is an initial drawn as a picture; TeX is a formula drawn as one.
        bare = len(text) <= 2 or "\\displaystyle" in text
        self._inline.append(text if bare else f" [image: {text}] ")

    def _math(self, attributes: dict[str, str | None]) -> bool:
        if text := attributes.get("alttext"):
            self._inline.append(text)
            return False
        return True

    def _page_break(self, node: LexborNode, attributes: dict[str, str | None]) -> None:
        label = attributes.get("title") or attributes.get("aria-label") or node.text()
        self._flush()
        self._blocks.page(one_line(label)[:40] or None)

    def _table(self, table: LexborNode) -> bool:
        """Write a table of data; return False for one that only arranges the page."""

        def text_of(cell: LexborNode) -> str:
            inner = BlockWriter()
            HtmlWalker(inner, skip=self._skip).walk(cell)
            for name in inner.anchors:
                self._blocks.anchor(self._place + name)
            return " ".join(line for line in inner.lines if line)

        if any(inner.mem_id != table.mem_id for inner in table.css("table")):
            return False
        rows = table_rows(table, text_of)
        if rows is None:
            return False
        caption = table.css_first("caption")
        if caption is not None:
            self._blocks.paragraph(text_of(caption))
        for at, cells in enumerate(rows):
            self._blocks.row(cells, first=at == 0)
        return True
