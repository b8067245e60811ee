"""The looks of the handbook: page, fonts, styles, and how code and tables fit the width.

The fonts are DejaVu, carried by matplotlib: the standard fonts of PDF lack signs that the pages
use, and a character without a glyph would be printed and extracted as nothing.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import B5
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Paragraph

PAGE_SIZE = B5
MARGIN = 48.0
TEXT_WIDTH = PAGE_SIZE[0] - 2 * MARGIN
INK, LINK, RULE, SHADE = (HexColor(c) for c in (0x1A1A1A, 0x1F4E8C, 0xB8BEC6, 0xF3F4F6))

FONTS = {
    "Body": "DejaVuSans.ttf",
    "Body-Bold": "DejaVuSans-Bold.ttf",
    "Body-Italic": "DejaVuSans-Oblique.ttf",
    "Body-BoldItalic": "DejaVuSans-BoldOblique.ttf",
    "Mono": "DejaVuSansMono.ttf",
    "Mono-Bold": "DejaVuSansMono-Bold.ttf",
    "Mono-Italic": "DejaVuSansMono-Oblique.ttf",
    "Mono-BoldItalic": "DejaVuSansMono-BoldOblique.ttf",
}

TEXT = ParagraphStyle(
    "text", fontName="Body", fontSize=9, leading=13.4, spaceAfter=6, textColor=INK
)
ITEM = ParagraphStyle("item", parent=TEXT, spaceAfter=2.5)
CELL = ParagraphStyle("cell", parent=TEXT, fontSize=7.8, leading=10.6, spaceAfter=0)
HEAD_CELL = ParagraphStyle("head cell", parent=CELL, fontName="Body-Bold")
CODE = ParagraphStyle(
    "code", parent=TEXT, fontName="Mono", fontSize=7, leading=9.8, leftIndent=5, rightIndent=5,
    backColor=SHADE, borderPadding=(4, 5, 4, 5), spaceBefore=6, spaceAfter=11,
)  # fmt: skip
HEADINGS = {
    1: ParagraphStyle(
        "h1", parent=TEXT, fontName="Body-Bold", fontSize=17, leading=22, spaceAfter=14,
        keepWithNext=1,
    ),
    2: ParagraphStyle(
        "h2", parent=TEXT, fontName="Body-Bold", fontSize=11.5, leading=15, spaceBefore=11,
        spaceAfter=5, keepWithNext=1,
    ),
    3: ParagraphStyle(
        "h3", parent=TEXT, fontName="Body-Bold", fontSize=9.2, leading=13, spaceBefore=7,
        spaceAfter=3, keepWithNext=1,
    ),
}  # fmt: skip


class HandbookError(Exception):
    """A page holds something that the handbook cannot show."""


def register_fonts() -> None:
    """Register the fonts; a second call changes nothing."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise HandbookError("the fonts come with matplotlib: pip install -e '.[dev]'")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    for name, file in FONTS.items():
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, folder / file))
    for family in ("Body", "Mono"):
        faces = {"normal": family, "bold": f"{family}-Bold"}
        faces |= {"italic": f"{family}-Italic", "boldItalic": f"{family}-BoldItalic"}
        pdfmetrics.registerFontFamily(family, **faces)


def wrap_code(code: str) -> Iterator[str]:
    """Cut lines of code that are wider than the page, at a space where there is one."""
    room = TEXT_WIDTH - CODE.leftIndent - CODE.rightIndent
    width = int(room / pdfmetrics.stringWidth("0", CODE.fontName, CODE.fontSize))
    for line in code.rstrip("\n").split("\n"):
        indent = "    " + line[: len(line) - len(line.lstrip())]
        while len(line) > width:
            cut = line.rfind(" ", len(indent) + 1, width + 1)
            cut = cut if cut > 0 else width
            yield line[:cut].rstrip()
            line = indent + line[cut:].lstrip()
        yield line


def column_widths(cells: list[list[Paragraph]]) -> list[float]:
    """Share the page's width: each column gets its longest word, the rest goes by need."""
    least, most = [], []
    for column in zip(*cells, strict=True):
        least.append(max(cell.minWidth() for cell in column) + 9)
        most.append(max(natural_width(cell) for cell in column) + 9)
    if sum(most) <= TEXT_WIDTH:
        return most
    spare = TEXT_WIDTH - sum(least)
    if spare <= 0:
        return [TEXT_WIDTH * width / sum(least) for width in least]
    need = [wide - narrow for wide, narrow in zip(most, least, strict=True)]
    return [low + spare * part / sum(need) for low, part in zip(least, need, strict=True)]


def natural_width(paragraph: Paragraph) -> float:
    """Give the width of a paragraph set in one line, in points."""
    return sum(
        pdfmetrics.stringWidth(part.text, part.fontName, part.fontSize) for part in paragraph.frags
    )
