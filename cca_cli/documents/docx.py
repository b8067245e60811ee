"""Word documents: headings, numbered lists, tables row by row, notes and comments.

A DOCX file has no pages, they are made whenever it is shown; so there is a section for each
heading. Running heads and feet are left out. What was deleted while changes are tracked is left
out, what was inserted is read.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from cca_cli.documents.archives import Archive, damaged, open_archive, parse_xml, resolve
from cca_cli.documents.blocks import BlockWriter
from cca_cli.documents.docx_body import BodyReader
from cca_cli.documents.docx_styles import Numbering, Styles
from cca_cli.documents.headed import assemble
from cca_cli.documents.normalise import TEXT_RULES
from cca_cli.documents.source import Source
from cca_models.documents import Document

__all__ = ["read_docx", "related"]

_STRICT = (
    b"http://purl.oclc.org/ooxml/wordprocessingml/main",
    b"http://schemas.openxmlformats.org/wordprocessingml/2006/main",
)


def read_docx(source: Source, *, pages: str | None = None) -> Document:
    """Read a Word document.

    Args:
        source: The file.
        pages: As in `read_document`; counts sections.

    Raises:
        InputError: If it is damaged or has no text.
        UsageError: If `pages` names what there is not.
    """
    blocks = BlockWriter()
    with open_archive(source) as archive:
        name = next(iter(related(archive, "", "officeDocument").values()), "word/document.xml")
        body = next(_read_xml(source, archive, name).iter("{*}body"), None)
        if body is None:
            raise damaged(source, f"{name} has no body")
        parts = {
            kind: _part(source, archive, name, kind)
            for kind in ("styles", "numbering", "footnotes", "endnotes", "comments")
        }
    BodyReader(
        blocks,
        Styles(parts["styles"]),
        Numbering(parts["numbering"]),
        {kind: parts[kind] for kind in ("footnotes", "endnotes", "comments")},
    ).read(body)
    return assemble(
        source,
        blocks,
        kind="docx",
        reader=f"docx lxml {metadata.version('lxml')} {TEXT_RULES}",
        pages=pages,
    )


def _part(source: Source, archive: Archive, name: str, kind: str) -> Any | None:
    part = next(iter(related(archive, name, kind).values()), None)
    return _read_xml(source, archive, part) if part is not None and part in archive else None


def _read_xml(source: Source, archive: Archive, name: str) -> Any:
    # The standard's strict form differs in the names of its namespaces only.
    return parse_xml(source, name, archive.read(name).replace(*_STRICT))


def related(archive: Archive, name: str, kind: str) -> dict[str, str]:
    """Return the parts that a part refers to in some capacity, by the reference's id.

    Args:
        archive: An Office file.
        name: The part, or empty for the file as a whole.
        kind: Last word of the relationship's type ("slide").
    """
    folder, _, base = name.rpartition("/")
    relations = f"{folder}/_rels/{base}.rels".lstrip("/")
    if relations not in archive:
        return {}
    return {
        element.get("Id"): resolve(name, element.get("Target") or "")
        for element in archive.read_xml(relations).iter("{*}Relationship")
        if (element.get("Type") or "").rpartition("/")[2] == kind
        and element.get("TargetMode") != "External"
    }
