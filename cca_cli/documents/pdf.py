"""PDF files, page by page, with printed labels and outline.

pypdf opens the file and gives its structure; the text comes from pypdf or, in long documents
where it is installed, from pdfium, which is several times faster. Tables become plain lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from cca_cli.documents import pdfium
from cca_cli.documents.normalise import TEXT_RULES, arabic_share
from cca_cli.documents.pdf_annotations import annotation_lines, count_attachments
from cca_cli.documents.pdf_checks import check_text, is_scan
from cca_cli.documents.pdf_file import Complaints, open_pdf, outline, page_labels
from cca_cli.documents.pdf_layout import page_text, tidy_pages
from cca_cli.documents.ranges import select_pages
from cca_cli.documents.source import Source
from cca_cli.documents.time_limit import OutOfTime, time_limit
from cca_cli.documents.traced import Original
from cca_cli.errors import InputError, UsageError
from cca_models.documents import Document, Page

if TYPE_CHECKING:
    from pypdf import PdfReader

__all__ = ["read_pdf", "trace_pdf"]

Backend = Literal["auto", "pypdf", "pdfium"]
# Raw text of a page, or None and the reason.
RawPages = Iterator[tuple[int, str | None, str]]

# Below this pypdf is fast enough not to start a second process.
PDFIUM_FROM_PAGES = 50
# pdfium turns the ligature of lam and alef round: "خالل" where the page has "خلال".
MAX_ARABIC = 0.02
PAGE_SECONDS = 30.0
# For the text of all pages; the longest book takes a minute.
FILE_SECONDS = 900.0
# Far more than any model reads; a file of a few bytes may claim them.
MAX_PAGES = 50_000
MAX_CHARACTERS = 50_000_000
MAX_TIMEOUTS = 3


def read_pdf(
    source: Source,
    *,
    pages: str | None = None,
    password: Callable[[], str | None] | None = None,
    backend: Backend = "auto",
) -> Document:
    """Read a PDF.

    Args:
        source: The file.
        pages: As in `read_document`.
        password: As in `read_document`.
        backend: As in `read_document`.

    Raises:
        InputError: If it is damaged, locked, or has no text layer.
        UsageError: If `pages` names pages that it lacks, or pdfium is asked for and not there.
    """
    document, _ = _read(source, pages=pages, password=password, backend=backend, trace=False)
    return document


def trace_pdf(
    source: Source, *, password: Callable[[], str | None] | None = None, backend: Backend = "auto"
) -> dict[int, Original]:
    """Read a PDF, and tell where on the original pages its text stands.

    Args:
        source: The file.
        password: As in `read_document`.
        backend: As in `read_document`.

    Returns:
        The original of every page by physical number.

    Raises:
        InputError: As `read_pdf`.
        UsageError: As `read_pdf`.
    """
    _, originals = _read(source, pages=None, password=password, backend=backend, trace=True)
    return originals


def _read(
    source: Source,
    *,
    pages: str | None,
    password: Callable[[], str | None] | None,
    backend: Backend,
    trace: bool,
) -> tuple[Document, dict[int, Original]]:
    if backend == "pdfium" and not pdfium.installed():
        raise UsageError(
            "--pdf-backend pdfium: pypdfium2 is not installed",
            hint="pip install 'cca[fast]', or leave the option out",
        )
    complaints = Complaints()
    with complaints.heard(), source.opened() as stream:
        reader, secret = open_pdf(source, stream, password)
        labels = page_labels(reader)
        numbers = select_pages(pages, labels, name=source.shown)
        budget = _Budget(source)
        if len(numbers) > MAX_PAGES:
            raise budget.error(f"{len(numbers):,} pages are more than {MAX_PAGES:,}", MAX_PAGES)
        raw, failed, reader_name, notes = _texts(source, reader, numbers, secret, backend, budget)
        for number in numbers:
            if number not in failed and (lines := annotation_lines(reader, number)):
                raw[number] = "\n".join([raw[number].rstrip(), "", *lines])
                budget.spend(number, sum(map(len, lines)))
        attached = count_attachments(reader)
        cleaned = {n: page_text(text, trace=trace) for n, text in raw.items()}
        texts = {n: traced.text for n, traced in cleaned.items()}
        scans = [n for n in numbers if n not in failed and is_scan(reader, n, texts[n])]
        entries = [entry for entry in outline(reader) if entry.page in texts]
    notes += check_text(source, numbers, texts, scans, failed)
    if attached:
        files = "1 file is" if attached == 1 else f"{attached} files are"
        notes.append(f"{files} embedded in the PDF and not read")
    summary = complaints.summary()
    if summary:
        notes.append(summary)

    by_number = {n: labels[n - 1] for n in numbers}
    tidy = tidy_pages([cleaned[n] for n in numbers], numbers, by_number)
    document = Document(
        name=source.name,
        path=source.path,
        sha256=source.sha256,
        format="pdf",
        reader=f"{reader_name} {TEXT_RULES}",
        unit="page",
        pages=tuple(
            Page(number=n, label=by_number[n], text=traced.text)
            for n, traced in zip(numbers, tidy, strict=True)
        ),
        outline=tuple(entries),
        warnings=tuple(notes),
    )
    if not trace:
        return document, {}
    spans = {n: tuple(traced.spans()) for n, traced in zip(numbers, tidy, strict=True)}
    return document, {n: Original(raw[n], spans[n]) for n in numbers}


class _Budget:
    """What one file may take in all, whatever each of its pages keeps within."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._start = time.monotonic()
        self._characters = 0

    def spend(self, number: int, characters: int) -> None:
        """Count a page's text; raise InputError once the file has had its share."""
        self._characters += characters
        if self._characters > MAX_CHARACTERS:
            raise self.error(f"more than {MAX_CHARACTERS:,} characters up to page {number}", number)
        if time.monotonic() - self._start > FILE_SECONDS:
            raise self.error(f"more than {FILE_SECONDS:.0f} s up to page {number}", number)

    def error(self, what: str, number: int) -> InputError:
        """Return the error that says so, with the pages that may be read at once."""
        return InputError(
            f"{self._source.shown}: {what}: too much to read at once",
            hint=f"read it in parts: --pages 1-{max(1, number - 1)}",
        )


def _texts(
    source: Source,
    reader: PdfReader,
    numbers: Sequence[int],
    secret: str | None,
    backend: Backend,
    budget: _Budget,
) -> tuple[dict[int, str], dict[int, str], str, list[str]]:
    """Return raw texts by page, reasons by failed page, the reader's name, and warnings."""
    import pypdf

    count = len(reader.pages)
    # By the whole document's length and not the selection's: a page reads the same either way.
    by_pdfium = backend == "pdfium" or (
        backend == "auto" and count >= PDFIUM_FROM_PAGES and pdfium.installed()
    )
    notes: list[str] = []
    if by_pdfium:
        try:
            found = pdfium.page_texts(source, numbers, secret, count=count)
            texts, failed = _gather(budget, found)
            arabic = arabic_share(texts.values()) > MAX_ARABIC
            if not arabic or backend == "pdfium":
                if arabic:
                    notes.append("pdfium exchanges letters of Arabic; --pdf-backend pypdf does not")
                return texts, failed, f"pypdfium2 {pdfium.version()}", notes
        except pdfium.PdfiumFailure as error:
            if backend == "pdfium":
                raise InputError(
                    f"{source.shown}: pdfium cannot read it ({error})", hint="--pdf-backend pypdf"
                ) from error
            notes.append(f"pdfium could not read the file ({error}); it was read with pypdf")
    return *_gather(budget, _by_pypdf(source, reader, numbers)), f"pypdf {pypdf.__version__}", notes


def _gather(budget: _Budget, found: RawPages) -> tuple[dict[int, str], dict[int, str]]:
    texts: dict[int, str] = {}
    failed: dict[int, str] = {}
    for number, raw, reason in found:
        texts[number] = raw or ""
        budget.spend(number, len(texts[number]))
        if raw is None:
            failed[number] = reason
    return texts, failed


def _by_pypdf(source: Source, reader: PdfReader, numbers: Sequence[int]) -> RawPages:
    timeouts = 0
    for number in numbers:
        try:
            with time_limit(PAGE_SECONDS):
                raw = reader.pages[number - 1].extract_text()
        except OutOfTime:
            timeouts += 1
            if timeouts >= MAX_TIMEOUTS:
                raise InputError(
                    f"{source.shown}: {timeouts} pages took more than {PAGE_SECONDS:.0f} s each, "
                    f"the last was page {number}",
                    hint="leave them out with --pages, or try --pdf-backend pdfium",
                ) from None
            yield number, None, f"took more than {PAGE_SECONDS:.0f} s"
        except Exception as error:  # broken pages raise far more than pypdf's own errors
            yield number, None, " ".join(str(error).split())[:100] or type(error).__name__
        else:
            yield number, raw, ""
