"""Readers of file formats: a file, or standard input, becomes a Document.

The format is decided by content first and by name second (formats.py). Each reader is imported
when its format turns up, so that reading a text file never imports pypdf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from cca_cli.documents.ranges import page_ranges

if TYPE_CHECKING:
    from cca_models.documents import Document

__all__ = ["page_ranges", "read_document"]


def read_document(
    path: str,
    *,
    pages: str | None = None,
    password: Callable[[], str | None] | None = None,
    backend: Literal["auto", "pypdf", "pdfium"] = "auto",
    kind: Literal["pdf", "text", "markdown"] | None = None,
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
    if found == "markdown":
        from cca_cli.documents.markdown import read_markdown

        return read_markdown(source, pages=pages, encoding=encoding)
    from cca_cli.documents.text import read_text

    return read_text(source, pages=pages, encoding=encoding)
