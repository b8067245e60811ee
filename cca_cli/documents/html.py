"""HTML pages: headings, lists, tables row by row; menus around the main part are left out."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING

from cca_cli.documents.blocks import BlockWriter, one_line
from cca_cli.documents.encodings import decode
from cca_cli.documents.headed import assemble
from cca_cli.documents.html_blocks import HtmlWalker
from cca_cli.documents.html_guard import too_costly
from cca_cli.documents.normalise import TEXT_RULES
from cca_cli.documents.source import Source
from cca_cli.errors import InputError
from cca_models.documents import Document

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ["declared_encoding", "parse_html", "read_html", "reader_name"]

_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.I)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([A-Za-z0-9_.:-]{1,40})")
# A main part with less of the page's text than this is not trusted to be all that matters.
MIN_SHARE = 0.3


def read_html(source: Source, *, pages: str | None = None, encoding: str | None = None) -> Document:
    """Read an HTML page.

    Args:
        source: The file.
        pages: As in `read_document`; counts sections.
        encoding: As in `read_document`.

    Raises:
        InputError: If it is not text, blank, or made to choke a parser.
        UsageError: If `pages` or `encoding` ask for what there is not.
    """
    text, codec, notes = decode(source, encoding, declared=declared_encoding(source.head))
    tree = parse_html(source, text)
    blocks = BlockWriter()
    root, left_out = _main_part(tree)
    if root is not None:
        menus = frozenset({"nav"}) if left_out else frozenset()
        HtmlWalker(blocks, skip=menus).walk(root)
    if left_out:
        notes.append(f"{left_out:,} characters around the page's main part (menus) are left out")
    # Marks of printed pages mean something in books; a web page has none.
    blocks.pages.clear()
    title = tree.css_first("title")
    if title is not None and not blocks.headings:
        _head(blocks, one_line(title.text()))
    return assemble(
        source,
        blocks,
        kind="html",
        reader=f"{reader_name()} {codec} {TEXT_RULES}",
        pages=pages,
        warnings=notes,
    )


def reader_name() -> str:
    """Return the library that parses HTML, with its version."""
    return f"selectolax {metadata.version('selectolax')}"


def parse_html(source: Source, text: str) -> LexborHTMLParser:
    """Parse HTML.

    Raises:
        InputError: If parsing would take too long.
    """
    from selectolax.lexbor import LexborHTMLParser

    if reason := too_costly(text):
        raise InputError(
            f"{source.shown}: cannot be read as HTML ({reason})",
            hint="open it in a browser and save it as text, then run cca on that file",
        )
    return LexborHTMLParser(text)


def declared_encoding(head: bytes) -> str | None:
    """Return the encoding that an HTML or XML file says it has, if it says so."""
    found = _XML_ENCODING.match(head.lstrip()) or _CHARSET.search(head)
    return found[1].decode("ascii") if found else None


def _main_part(tree: LexborHTMLParser) -> tuple[LexborNode | None, int]:
    """Return the element to read, and how many characters of text stand around it."""
    body = tree.body if tree.body is not None else tree.root
    if body is None:
        return None, 0
    found = tree.css("main, [role=main]") or tree.css("article")
    if len(found) != 1:
        return body, 0
    inside, whole = _characters(found[0]), _characters(body)
    if inside < MIN_SHARE * whole:
        return body, 0
    return found[0], whole - inside


def _characters(node: LexborNode) -> int:
    blocks = BlockWriter()
    HtmlWalker(blocks).walk(node)
    return sum(map(len, blocks.lines))


def _head(blocks: BlockWriter, title: str) -> None:
    """Put the page's title, which nothing in its body repeats, before the rest."""
    if not title:
        return
    titled = BlockWriter()
    titled.heading(title, 0)
    shift = len(titled.lines)
    blocks.lines[:0] = titled.lines
    blocks.headings[:0] = titled.headings
    blocks.starts = {0} | {at + shift for at in blocks.starts}
