"""Readers of file formats: a file, or standard input, becomes a Document.

The format is decided by content first and by name second (formats.py). Directories and patterns
become lists of files (collect.py). Each reader is imported
when its format turns up, so that reading a text file never imports pypdf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from cca_cli.documents.ranges import page_ranges

if TYPE_CHECKING:
    from cca_cli.documents.formats import Kind
    from cca_cli.documents.traced import Original
    from cca_models.documents import Document

__all__ = ["page_ranges", "read_document", "read_originals"]


def read_document(
    path: str,
    *,
    pages: str | None = None,
    password: Callable[[], str | None] | None = None,
    backend: Literal["auto", "pypdf", "pdfium"] = "auto",
    kind: Kind | None = None,
    encoding: str | None = None,
) -> Document:
    """Read a document, whole or in part.

    Args:
        path: A file, or "-" for standard input.
        pages: Which pages to keep: "1-20,35,40-" by physical number, "label:iv-xii" by printed
            label; None for all. Pages keep their numbers in the whole document.
        password: Called once, and only if the file is encrypted and does not open with an empty
            password; returns None if the user has none.
        backend: What reads a PDF's text. "auto" is pdfium from 50 pages on where it is installed.
        kind: The format, where content and name do not tell.
        encoding: Codec of a text or Markdown file, where the guess is wrong.

    Returns:
        The document, with at least one page; its warnings are for the user.

    Raises:
        InputError: If the file is missing, empty, damaged, locked, without text or of a format
            that is not read.
        UsageError: If `pages`, `backend` or `encoding` ask for what there is not.
    """
    from cca_cli.documents.formats import detect
    from cca_cli.documents.source import open_source

    source = open_source(path)
    found = detect(source, kind)
    if found == "pdf":
        from cca_cli.documents.pdf import read_pdf

        return read_pdf(source, pages=pages, password=password, backend=backend)
    if found == "epub":
        from cca_cli.documents.epub import read_epub

        return read_epub(source, pages=pages)
    if found == "html":
        from cca_cli.documents.html import read_html

        return read_html(source, pages=pages, encoding=encoding)
    if found == "docx":
        from cca_cli.documents.docx import read_docx

        return read_docx(source, pages=pages)
    if found == "odt":
        from cca_cli.documents.odt import read_odt

        return read_odt(source, pages=pages)
    if found == "pptx":
        from cca_cli.documents.pptx import read_pptx

        return read_pptx(source, pages=pages)
    if found == "markdown":
        from cca_cli.documents.markdown import read_markdown

        return read_markdown(source, pages=pages, encoding=encoding)
    if found == "code":
        from cca_cli.documents.code import read_code

        return read_code(source, pages=pages, encoding=encoding)
    from cca_cli.documents.text import read_text

    return read_text(source, pages=pages, encoding=encoding)


def read_originals(
    path: str,
    *,
    password: Callable[[], str | None] | None = None,
    backend: Literal["auto", "pypdf", "pdfium"] = "auto",
    kind: Kind | None = None,
) -> dict[int, Original]:
    """Read the pages of a PDF as they are in the file, and where their clean text stands there.

    Args:
        path: As in `read_document`.
        password: As in `read_document`.
        backend: As in `read_document`.
        kind: As in `read_document`.

    Returns:
        The original of every page by number.

    Raises:
        InputError: As `read_document`.
        UsageError: If it is no PDF.
    """
    from cca_cli.documents.formats import detect
    from cca_cli.documents.source import open_source
    from cca_cli.errors import UsageError

    source = open_source(path)
    if detect(source, kind) != "pdf":
        raise UsageError(
            f"{source.shown}: is no PDF; other formats have no original pages",
            hint="leave out --original",
        )
    from cca_cli.documents.pdf import trace_pdf

    return trace_pdf(source, password=password, backend=backend)
