"""EPUB books: the spine's chapters in order, the book's own contents as outline.

Where the book marks the pages of its printed edition, those are its pages, with their printed
numbers; else a section for each heading.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cca_cli.documents.archives import Archive, damaged, open_archive, resolve
from cca_cli.documents.blocks import BlockWriter, Heading
from cca_cli.documents.encodings import decode
from cca_cli.documents.epub_contents import Contents, read_contents
from cca_cli.documents.headed import assemble
from cca_cli.documents.html import declared_encoding, parse_html, reader_name
from cca_cli.documents.html_blocks import HtmlWalker
from cca_cli.documents.normalise import TEXT_RULES
from cca_cli.documents.ranges import page_ranges
from cca_cli.documents.source import HEAD_BYTES, Source
from cca_cli.errors import InputError
from cca_models.documents import Document

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser

__all__ = ["read_epub"]

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
# Fewer marks of printed pages than this are strays.
MIN_PAGES = 3
_TEXT_TYPES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml", "image/svg+xml")
# XHTML may close any element at once; an HTML parser takes that for an opening tag.
_CLOSED_AT_ONCE = re.compile(
    r"<((?!(?:area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr)\b)[A-Za-z][\w:.-]*)"
    r"((?:\s[^<>]*)?)/>"
)


def read_epub(source: Source, *, pages: str | None = None) -> Document:
    """Read an EPUB book.

    Args:
        source: The file.
        pages: As in `read_document`; counts printed pages where the book marks them, else
            sections.

    Raises:
        InputError: If it is damaged, protected against copying, or has no text.
        UsageError: If `pages` names what there is not.
    """
    blocks = BlockWriter()
    notes: list[str] = []
    with open_archive(source) as archive:
        package, root = _package(source, archive)
        if ENCRYPTION in archive:
            _check_encryption(source, archive)
        manifest, spine = _manifest(package, root)
        contents = read_contents(
            package, root, manifest, archive, lambda name: _parse(source, archive, name)
        )
        fixed = _is_fixed(root)
        empty: list[int] = []
        missing: list[str] = []
        for place, (name, media) in enumerate(spine, start=1):
            if media not in _TEXT_TYPES:
                continue
            if name not in archive:
                missing.append(name)
                continue
            before = len(blocks.lines)
            blocks.anchor(name)
            if fixed:
                blocks.page(None)
            tree = _parse(source, archive, name)
            body = tree.body if tree.body is not None else tree.root
            if body is not None:
                HtmlWalker(blocks, place=name).walk(body)
            if len(blocks.lines) == before:
                empty.append(place)
    if missing:
        notes.append(f"{len(missing)} chapters are missing from the file, {missing[0]} first")
    if empty and not fixed:
        notes.append(
            f"{len(empty)} of {len(spine)} parts of the book hold pictures only and were not "
            f"read: {page_ranges(empty)}"
        )
    _mark_pages(blocks, contents)
    outline = _outline(blocks, contents)
    return assemble(
        source,
        blocks,
        kind="epub",
        reader=f"{reader_name()} {TEXT_RULES}",
        pages=pages,
        warnings=notes,
        outline=outline or None,
    )


def _package(source: Source, archive: Archive) -> tuple[str, Any]:
    """Return the name of the package document, and its root element."""
    name = None
    if CONTAINER in archive:
        files = archive.read_xml(CONTAINER).iter("{*}rootfile")
        name = next((f.get("full-path") for f in files if f.get("full-path") in archive), None)
    # Without a container the book is faulty, but there is hardly ever a second package in it.
    name = name or next((n for n in archive.names if n.lower().endswith(".opf")), None)
    if name is None:
        raise damaged(source, "it names no package document")
    return name, archive.read_xml(name)


def _is_fixed(root: Any) -> bool:
    """Return whether every part of the book is laid out as one page, as in comics."""
    return any(
        meta.get("property") == "rendition:layout" and (meta.text or "").strip() == "pre-paginated"
        for meta in root.iter("{*}meta")
    )


def _check_encryption(source: Source, archive: Archive) -> None:
    for reference in archive.read_xml(ENCRYPTION).iter("{*}CipherReference"):
        name = resolve("", reference.get("URI") or "")
        # Fonts are often scrambled, which keeps nobody from reading.
        if name.lower().endswith((".xhtml", ".html", ".htm", ".opf", ".ncx")):
            raise InputError(
                f"{source.shown}: is protected against copying (DRM); its chapters are encrypted",
                hint="ask the publisher for a copy without protection",
            )


def _manifest(
    package: str, root: Any
) -> tuple[dict[str, tuple[str, str, str]], list[tuple[str, str]]]:
    """Return member, media type and properties by id; member and media type in reading order."""
    manifest = {
        item.get("id"): (
            resolve(package, item.get("href")),
            (item.get("media-type") or "").strip().lower(),
            item.get("properties") or "",
        )
        for item in root.iter("{*}item")
        if item.get("href")
    }
    spine = [
        manifest[reference.get("idref")][:2]
        for reference in root.iter("{*}itemref")
        if reference.get("idref") in manifest
    ]
    # The same chapter twice in the spine would be read twice.
    return manifest, list(dict.fromkeys(spine))


def _parse(source: Source, archive: Archive, name: str) -> LexborHTMLParser:
    data = archive.read(name)
    part = replace(
        source, shown=f"{source.shown}: {name}", size=len(data), head=data[:HEAD_BYTES], data=data
    )
    if not data.strip():
        return parse_html(part, "")
    text, _, _ = decode(part, declared=declared_encoding(part.head))
    return parse_html(part, _CLOSED_AT_ONCE.sub(r"<\1\2></\1>", text))


def _mark_pages(blocks: BlockWriter, contents: Contents) -> None:
    if not blocks.pages:
        for label, target in contents.pages:
            if target in blocks.anchors:
                blocks.pages.append((blocks.anchors[target], label or None))
        blocks.pages.sort(key=lambda page: page[0])
    if len(blocks.pages) < MIN_PAGES:
        blocks.pages.clear()


def _outline(blocks: BlockWriter, contents: Contents) -> list[tuple[str, int, int]]:
    """Return the contents' entries as title, line and level.

    An entry that leads to a place without a heading of its own becomes one, so that a section
    begins there and bears its title.
    """
    outline = []
    lines = sorted(heading.line for heading in blocks.headings)
    for title, target, level in contents.entries:
        at = blocks.anchors.get(target, blocks.anchors.get(target.partition("#")[0]))
        if at is None:
            continue
        outline.append((title, at, level))
        near = bisect_left(lines, at)
        gap = blocks.lines[at : lines[near]] if near < len(lines) else ["text"]
        if any(line.strip() for line in gap):
            blocks.headings.append(Heading(at, at, title, level))
    return outline
