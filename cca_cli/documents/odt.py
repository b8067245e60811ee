"""OpenDocument texts: headings, lists, tables row by row, notes and comments.

Like DOCX, the format has no pages; there is a section for each heading.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from cca_cli.documents.archives import Archive, damaged, open_archive, resolve
from cca_cli.documents.blocks import BlockWriter
from cca_cli.documents.headed import assemble
from cca_cli.documents.normalise import TEXT_RULES
from cca_cli.documents.odt_body import BodyReader
from cca_cli.documents.odt_styles import Styles
from cca_cli.documents.source import Source
from cca_cli.errors import InputError
from cca_models.documents import Document

__all__ = ["read_odt"]

MANIFEST = "META-INF/manifest.xml"


def read_odt(source: Source, *, pages: str | None = None) -> Document:
    """Read an OpenDocument text.

    Args:
        source: The file.
        pages: As in `read_document`; counts sections.

    Raises:
        InputError: If it is damaged, encrypted, or has no text.
        UsageError: If `pages` names what there is not.
    """
    blocks = BlockWriter()
    with open_archive(source) as archive:
        if _is_encrypted(archive):
            raise InputError(
                f"{source.shown}: is encrypted",
                hint="save it without a password, then run cca on that file",
            )
        root = archive.read_xml("content.xml")
        sheets = [archive.read_xml("styles.xml")] if "styles.xml" in archive else []
        body = next(root.iter("{*}text"), None)
        if body is None:
            raise damaged(source, "content.xml has no text")
        BodyReader(blocks, Styles([*sheets, root]), lambda name: _formula(archive, name)).read(body)
    return assemble(
        source,
        blocks,
        kind="odt",
        reader=f"odt lxml {metadata.version('lxml')} {TEXT_RULES}",
        pages=pages,
    )


def _is_encrypted(archive: Archive) -> bool:
    if MANIFEST not in archive:
        return False
    return next(archive.read_xml(MANIFEST).iter("{*}encryption-data"), None) is not None


def _formula(archive: Archive, reference: str) -> str:
    """Return the text of an embedded formula as its author wrote it; empty for other objects."""
    name = f"{resolve('content.xml', reference)}/content.xml"
    if name not in archive:
        return ""
    root: Any = archive.read_xml(name)
    if not str(root.tag).endswith("}math"):
        return ""
    annotation = next(root.iter("{*}annotation"), None)
    text = annotation.text if annotation is not None else "".join(root.itertext())
    return " ".join((text or "").split())
