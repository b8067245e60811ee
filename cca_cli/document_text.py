"""A document as tokens: how it is read, how it is cut into tokens, and what it is known by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cca_cli.errors import InputError
from cca_cli.formatting import format_count, format_ranges
from cca_cli.library_entry import Fingerprint, StoredText
from cca_cli.library_files import file_sha256
from cca_cli.passwords import password_source

if TYPE_CHECKING:
    from cca_cli.console import Console
    from cca_cli.documents.formats import Kind
    from cca_models.documents import Document
    from cca_models.engine import LanguageModel
    from cca_models.tokenizer import Tokenizer

__all__ = [
    "PAGE_END",
    "ReadOptions",
    "absolute",
    "canonical_pages",
    "fingerprint_of",
    "pages_without_text",
    "summary_line",
    "tokenize",
    "without_text",
]

PAGE_END = "\n"
"""Follows every page that has text, in the tokens but not in the page's own text."""

_PDF_PACKAGES = ("pypdf", "fonttools", "pypdfium2")
_TEXT_PACKAGES = ("charset-normalizer", "lxml", "markdown-it-py", "selectolax")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """How a file is to be read.

    Attributes:
        pages: Page selection as the user wrote it, or None for all.
        password: Asked for the password of a locked file.
        backend: PDF reader: "auto", "pypdf" or "pdfium".
        kind: Format where the content does not tell, or None.
        encoding: Codec of a text file where the guess is wrong, or None.
        strict: Whether a page without text is an error.
    """

    pages: str | None = None
    password: Callable[[], str | None] | None = None
    backend: Literal["auto", "pypdf", "pdfium"] = "auto"
    kind: Kind | None = None
    encoding: str | None = None
    strict: bool = False

    @classmethod
    def asked(cls, console: Console, path: str, options: Mapping[str, Any]) -> ReadOptions:
        """Take what a command's options say of reading a file.

        Args:
            console: Where its password is asked for, if there is need.
            path: The file.
            options: Of the command, by the names of its parameters: its context's `params`.
        """
        return cls(
            pages=options["pages"],
            password=password_source(console, options["password_file"], path),
            backend=options["pdf_backend"],
            kind=options["kind"],
            encoding=options["encoding"],
            strict=options["strict"],
        )

    def read(self, path: str) -> Document:
        """Read a file, or standard input for "-".

        Raises:
            CLIError: If it cannot be read.
        """
        # The readers import their libraries; nothing else should wait for that.
        from cca_cli.documents import read_document

        return read_document(
            path,
            pages=self.pages,
            password=self.password,
            backend=self.backend,
            kind=self.kind,
            encoding=self.encoding,
        )

    def require_text(self, document: Document) -> None:
        """Refuse a document of which a page has no text, if `strict` says so.

        Raises:
            InputError: If there is such a page; it is named.
        """
        empty = without_text(document)
        if not (self.strict and empty):
            return
        raise InputError(
            f"{document.name}: has {empty}, and --strict is set",
            hint="leave them out with --pages, add their text with ocrmypdf, or drop --strict",
        )

    def check(self, path: str) -> None:
        """Refuse what can be seen at once to be unreadable, before a model is loaded for it.

        Pipes and standard input are left alone: they can be read once only.

        Raises:
            CLIError: If the file is missing, empty or of a format that is not read.
        """
        from cca_cli.documents.formats import detect
        from cca_cli.documents.source import open_source

        if path != "-" and (os.path.isfile(path) or not os.path.exists(path)):
            detect(open_source(path, digest=False), self.kind)

    def recipe(self, path: str, document: Document | None = None) -> str:
        """Name all that turns the file's bytes into text.

        A hit in the library must not cost what reading costs, so this goes by the options and the
        versions of the readers instead of by the reader that was chosen in the end.

        Args:
            path: Path of a regular file, or anything if `document` is given.
            document: What was read, if it was read already.
        """
        from cca_cli.documents.normalise import TEXT_RULES

        packages: tuple[str, ...]
        parts = [f"rules {TEXT_RULES}"]
        if self.kind is not None:
            parts.append(f"type {self.kind}")
        if document.format == "pdf" if document is not None else _looks_like_pdf(path):
            parts.append(f"backend {self.backend}")
            packages = _PDF_PACKAGES
        else:
            suffix = "" if path == "-" else Path(path).suffix.lower()
            parts.append(f"suffix {suffix or 'none'}")
            if self.encoding is not None:
                parts.append(f"encoding {self.encoding}")
            packages = _TEXT_PACKAGES
        return ", ".join([*parts, *(f"{name} {_version(name)}" for name in packages)])


def _looks_like_pdf(path: str) -> bool:
    with open(path, "rb") as stream:
        return b"%PDF-" in stream.read(1024)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def fingerprint_of(
    path: str,
    document: Document | None,
    model: LanguageModel,
    prefix_ids: Sequence[int],
    options: ReadOptions,
) -> Fingerprint:
    """Build the key of a document's memory.

    Args:
        path: Path of the file, or "-".
        document: What was read, if it was read already; needed where path is no regular file.
        model: What reads it.
        prefix_ids: Tokens before the document.
        options: How it is read.
    """
    ids = ",".join(map(str, prefix_ids))
    return Fingerprint(
        document_sha256=document.sha256 if document else file_sha256(Path(path)),
        reading=options.recipe(path, document),
        pages=canonical_pages(options.pages),
        model=model.fingerprint,
        tokenizer=model.tokenizer.fingerprint,
        prefix_sha256=hashlib.sha256(ids.encode()).hexdigest(),
    )


def canonical_pages(pages: str | None) -> str:
    """Return a page selection as fingerprints hold it."""
    return "all" if pages is None else "".join(pages.split())


def tokenize(
    document: Document,
    tokenizer: Tokenizer,
    prefix_ids: Sequence[int],
    *,
    progress: Callable[[str, int, int], None],
) -> StoredText:
    """Cut a document into tokens page by page, so that the pages' spans are exact.

    Args:
        document: What was read.
        tokenizer: Of the model.
        prefix_ids: Tokens before the document.
        progress: Told the pages done.
    """
    import numpy as np

    ids = list(prefix_ids)
    counts = []
    for place, page in enumerate(document.pages, start=1):
        tokens = tokenizer.encode(page.text + PAGE_END) if page.text.strip() else []
        ids += tokens
        counts.append(len(tokens))
        progress("tokenise", place, len(document.pages))
    return StoredText(
        document=document,
        ids=np.asarray(ids, dtype=np.uint32),
        prefix_tokens=len(prefix_ids),
        page_tokens=tuple(counts),
    )


def summary_line(text: StoredText) -> str:
    """Say in one line what was read, pages without text included."""
    document = text.document
    words = sum(len(page.text.split()) for page in document.pages)
    count = len(document.pages)
    unit = document.unit if count == 1 else f"{document.unit}s"
    line = (
        f"{document.name}: {count:,} {unit}, {format_count(words)} words, "
        f"{sum(text.page_tokens):,} tokens"
    )
    empty = without_text(document)
    return f"{line}, {empty}" if empty else line


def without_text(document: Document) -> str:
    """Name the pages without text: "2 pages without text (5, 210)"; empty if all have some."""
    empty = pages_without_text(document)
    if not empty:
        return ""
    unit = document.unit if len(empty) == 1 else f"{document.unit}s"
    return f"{len(empty)} {unit} without text ({format_ranges(empty)})"


def pages_without_text(document: Document) -> list[int]:
    """Return the numbers of the pages that have no text."""
    return [page.number for page in document.pages if not page.text.strip()]


def absolute(path: str) -> str:
    """Return the path that manifests keep: absolute, or "-"."""
    return path if path == "-" else os.path.abspath(path)
