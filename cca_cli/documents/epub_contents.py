"""The table of contents of an EPUB book, and its list of printed pages.

EPUB 3 has both in a navigation document, EPUB 2 in an NCX file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cca_cli.documents.archives import Archive, resolve
from cca_cli.documents.blocks import one_line

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ["Contents", "read_contents"]

NCX = "application/x-dtbncx+xml"
# A list within a list within a list: no reader can follow more levels than these.
MAX_LEVEL = 8


@dataclass(slots=True)
class Contents:
    """What a book says about its parts.

    Attributes:
        entries: Title, target ("chapter.xhtml" or "chapter.xhtml#part") and level from 0.
        pages: Printed number and target of every page.
    """

    entries: list[tuple[str, str, int]] = field(default_factory=list)
    pages: list[tuple[str, str]] = field(default_factory=list)


def read_contents(
    package: str,
    root: Any,
    manifest: Mapping[str, tuple[str, str, str]],
    archive: Archive,
    parse: Callable[[str], LexborHTMLParser],
) -> Contents:
    """Read the contents of a book; empty if it has none.

    Args:
        package: Name of the package document.
        root: Its root element.
        manifest: Member, media type and properties by id.
        archive: The book.
        parse: Parses a member as HTML.

    Raises:
        InputError: If the file that holds them is damaged.
    """
    for name, _, properties in manifest.values():
        if "nav" in properties.split() and name in archive:
            return _from_navigation(name, parse(name))
    spine = next(root.iter("{*}spine"), None)
    told = manifest.get(spine.get("toc") or "") if spine is not None else None
    ncx = told[0] if told else next((n for n, media, _ in manifest.values() if media == NCX), None)
    if ncx is None or ncx not in archive:
        return Contents()
    return _from_ncx(ncx, archive.read_xml(ncx))


def _from_navigation(name: str, tree: LexborHTMLParser) -> Contents:
    contents = Contents()
    for nav in tree.css("nav"):
        kind = nav.attributes.get("epub:type") or nav.attributes.get("role") or ""
        if kind in ("toc", "doc-toc") and not contents.entries:
            for link in nav.css("a[href]"):
                title = one_line(link.text())
                if title:
                    contents.entries.append((title, _target(name, link), _level(link, nav)))
        elif kind in ("page-list", "doc-pagelist") and not contents.pages:
            contents.pages = [
                (one_line(link.text()), _target(name, link)) for link in nav.css("a[href]")
            ]
    return contents


def _target(name: str, link: LexborNode) -> str:
    return _joined(name, link.attributes.get("href") or "")


def _joined(name: str, reference: str) -> str:
    _, _, fragment = reference.partition("#")
    path = resolve(name, reference)
    return f"{path}#{fragment}" if fragment else path


def _level(link: LexborNode, nav: LexborNode) -> int:
    lists = 0
    node = link.parent
    while node is not None and node.mem_id != nav.mem_id and lists <= MAX_LEVEL:
        lists += node.tag == "ol"
        node = node.parent
    return max(0, lists - 1)


def _from_ncx(name: str, root: Any) -> Contents:
    contents = Contents()
    for point in root.iter("{*}navPoint"):
        level = sum(a.tag == point.tag for a in point.iterancestors())
        entry = _ncx_entry(name, point)
        if entry is not None and entry[0]:
            contents.entries.append((*entry, min(level, MAX_LEVEL)))
    for point in root.iter("{*}pageTarget"):
        entry = _ncx_entry(name, point)
        if entry is not None:
            contents.pages.append(entry)
    return contents


def _ncx_entry(name: str, point: Any) -> tuple[str, str] | None:
    content = point.find("{*}content")
    label = point.find("{*}navLabel")
    if content is None or not content.get("src"):
        return None
    title = one_line("".join(label.itertext())) if label is not None else ""
    return title, _joined(name, content.get("src"))
