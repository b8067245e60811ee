"""Turn a Markdown page into reportlab flowables: headings, prose, lists, tables, code, images."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from handbook_style import (
    CELL,
    CODE,
    FONTS,
    HEAD_CELL,
    HEADINGS,
    ITEM,
    LINK,
    RULE,
    SHADE,
    TEXT,
    TEXT_WIDTH,
    HandbookError,
    column_widths,
    wrap_code,
)
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.platypus import (
    CondPageBreak,
    Flowable,
    HRFlowable,
    Image,
    Indenter,
    Paragraph,
    Spacer,
    Table,
    XPreformatted,
)


class Heading(Paragraph):
    """A heading that the document template puts into the outline and the table of contents."""

    def __init__(self, markup: str, *, title: str, level: int, key: str) -> None:
        super().__init__(f"<a name={quoteattr(key)}/>{markup}", HEADINGS[min(level, 3)])
        self.title, self.level, self.key = title, level, key

    def split(self, width: float, height: float) -> list[Flowable]:
        """Refuse: a heading goes to the next page as a whole."""
        return []


def slug(title: str) -> str:
    """Make the anchor of a heading as code hosts make it: lower case, hyphens, no punctuation."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def plain(node: SyntaxTreeNode) -> str:
    """Give the text of a node without mark-up."""
    if node.type in ("softbreak", "hardbreak"):
        return " "
    return node.content if not node.children else "".join(map(plain, node.children))


class Page:
    """One Markdown page.

    Args:
        path: The file; its stem prefixes the anchors.
        number: Chapter number, printed before the title.

    Raises:
        HandbookError: If a character has no glyph or the page does not start with its title.
    """

    def __init__(self, path: Path, *, number: int) -> None:
        self.path, self.number = path, number
        source = path.read_text(encoding="utf-8")
        glyphs = set.intersection(
            *(set(pdfmetrics.getFont(name).face.charToGlyph) for name in FONTS)
        )
        for line_number, line in enumerate(source.splitlines(), 1):
            missing = sorted({c for c in line if ord(c) not in glyphs})
            if missing:
                raise HandbookError(f"{path.name}:{line_number}: no glyph for {missing}")
        parser = MarkdownIt("commonmark").enable("table")
        self.root = SyntaxTreeNode(parser.parse(source))
        if not self.root.children or self.root.children[0].tag != "h1":
            raise HandbookError(f"{path.name}: expected the title '# ...' first")

    @property
    def keys(self) -> list[str]:
        """The anchors of the page's headings in their order; a repeated one gets a number."""
        names = [slug(plain(node)) for node in self.root.children if node.type == "heading"]
        counts = [names[:i].count(name) for i, name in enumerate(names)]
        numbered = [f"{n}-{count}" if count else n for n, count in zip(names, counts, strict=True)]
        return [self.path.stem, *(f"{self.path.stem}#{name}" for name in numbered[1:])]

    def flowables(self, anchors: set[str]) -> list[Flowable]:
        """Make the page's flowables; links to anchors that are not given become plain text."""
        self.targets = anchors
        return let_long_code_split(list(self._flowables()))

    def _flowables(self) -> Iterator[Flowable]:
        keys, mark = iter(self.keys), f"{self.number}  "
        for node in self.root.children:
            if node.type == "heading":
                title, markup, level = mark + plain(node), mark + self._inline(node), node.tag[1]
                yield Heading(markup, title=title, level=int(level), key=next(keys))
                mark = ""
            else:
                blocks = list(self._block(node))
                if node.type == "paragraph" and self._announces(node):
                    blocks[-1].keepWithNext = True
                yield from blocks

    @staticmethod
    def _announces(node: SyntaxTreeNode) -> bool:
        """Tell whether a paragraph must stay with the table, list or code that follows it."""
        follower = node.next_sibling
        return follower is not None and (follower.type == "table" or plain(node).endswith(":"))

    def _block(self, node: SyntaxTreeNode, style: ParagraphStyle = TEXT) -> Iterator[Flowable]:
        match node.type:
            case "paragraph":
                images = [part for part in node.children[0].children if part.type == "image"]
                if images:
                    yield from map(self._image, images)
                else:
                    yield Paragraph(self._inline(node), style)
            case "fence" | "code_block":
                lines = list(wrap_code(node.content))
                code = XPreformatted("\n".join(map(escape, lines)), CODE)
                code.line_count = len(lines)
                yield code
            case "bullet_list" | "ordered_list":
                yield from self._list(node, style)
                if style is TEXT:
                    yield Spacer(0, 4)
            case "blockquote":
                yield Indenter(left=14)
                for child in node.children:
                    yield from self._block(child, style)
                yield Indenter(left=-14)
            case "table":
                table = self._table(node)
                table.keepWithNext = len(table._cellvalues) < 16
                yield table
                yield Spacer(0, 9)
            case "hr":
                yield HRFlowable(width="100%", color=RULE, spaceBefore=4, spaceAfter=8)
            case "html_block" if node.content.lstrip().startswith("<!--"):
                return
            case _:
                raise HandbookError(f"{self.path.name}: cannot print {node.type}")

    def _list(self, node: SyntaxTreeNode, style: ParagraphStyle) -> Iterator[Flowable]:
        first = int(node.attrs.get("start", 1))
        for number, item in enumerate(node.children, first):
            # The mark is part of the paragraph: set apart, it would be extracted as its own line.
            mark = "• " if node.type == "bullet_list" else f"{number}. "
            hang = pdfmetrics.stringWidth(mark, ITEM.fontName, ITEM.fontSize)
            indent = style.leftIndent + (4 if style is TEXT else 0) + hang
            inner = ParagraphStyle("item text", parent=ITEM, leftIndent=indent)
            opening = ParagraphStyle("item", parent=inner, firstLineIndent=-hang)
            for child in item.children:
                if child.type == "paragraph":
                    yield Paragraph(mark + self._inline(child), opening)
                    mark, opening = "", inner
                elif child.type.endswith("_list"):
                    yield from self._list(child, inner)
                else:
                    yield Indenter(left=indent)
                    yield from self._block(child, inner)
                    yield Indenter(left=-indent)

    def _table(self, node: SyntaxTreeNode) -> Table:
        rows = [row.children for part in node.children for row in part.children]
        cells = [
            [Paragraph(self._inline(cell), HEAD_CELL if i == 0 else CELL) for cell in row]
            for i, row in enumerate(rows)
        ]
        table = Table(cells, colWidths=column_widths(cells), repeatRows=1, hAlign="LEFT")
        table.setStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LEFTPADDING", (0, 0), (-1, -1), 3),
                ("RIGHTPADDING", (0, 0), (-1, -1), 5),
                ("TOPPADDING", (0, 0), (-1, -1), 2.5),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
                ("BACKGROUND", (0, 0), (-1, 0), SHADE),
                ("LINEBELOW", (0, 0), (-1, -1), 0.4, RULE),
            ]
        )
        return table

    def _image(self, node: SyntaxTreeNode) -> Image:
        image = Image(self.path.parent / str(node.attrs["src"]))
        scale = min(1.0, TEXT_WIDTH / image.drawWidth)
        image.drawWidth, image.drawHeight = image.drawWidth * scale, image.drawHeight * scale
        return image

    def _inline(self, node: SyntaxTreeNode) -> str:
        return "".join(map(self._markup, node.children))

    def _markup(self, node: SyntaxTreeNode) -> str:
        match node.type:
            case "inline":
                return self._inline(node)
            case "text":
                return escape(node.content)
            case "softbreak":
                return " "
            case "hardbreak":
                return "<br/>"
            case "code_inline":
                return f'<font name="Mono" size="-0.5">{escape(node.content)}</font>'
            case "strong":
                return f"<b>{self._inline(node)}</b>"
            case "em":
                return f"<i>{self._inline(node)}</i>"
            case "html_inline" if node.content.startswith("<!--"):
                return ""
            case "link":
                return self._link(str(node.attrs["href"]), self._inline(node))
            case _:
                raise HandbookError(f"{self.path.name}: cannot print {node.type}")

    def _link(self, href: str, markup: str) -> str:
        if not re.match(r"https?://|mailto:", href):
            page, _, anchor = href.partition("#")
            stem = page.removesuffix(".md") or self.path.stem
            key = f"{stem}#{anchor}" if anchor else stem
            if key not in self.targets:
                return markup
            href = f"#{key}"
        return f'<a href={quoteattr(href)} color="{LINK.hexval().replace("0x", "#")}">{markup}</a>'


def let_long_code_split(flowables: list[Flowable]) -> list[Flowable]:
    """Part long code from the headings that would drag all of it to the next page."""
    result: list[Flowable] = []
    for flowable in flowables:
        if getattr(flowable, "line_count", 0) > 14:
            start = len(result)
            while start and result[start - 1].getKeepWithNext():
                start -= 1
                result[start].keepWithNext = False
            result.insert(start, CondPageBreak(110))
        result.append(flowable)
    return result
