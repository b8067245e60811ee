"""PDF files, page by page, with printed labels and outline.

pypdf opens the file and gives its structure; the text comes from pypdf or, in long documents
where it is installed, from pdfium, which is several times faster. Tables become plain lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from cca_cli.documents import pdfium
from cca_cli.documents.normalise import TEXT_RULES, unreadable_share
from cca_cli.documents.pdf_file import Complaints, has_image, open_pdf, outline, page_labels
from cca_cli.documents.pdf_layout import page_text, tidy_pages
from cca_cli.documents.ranges import page_ranges, select_pages
from cca_cli.documents.source import Source
from cca_cli.documents.time_limit import OutOfTime, time_limit
from cca_cli.errors import InputError, UsageError
from cca_models.documents import Document, Page

if TYPE_CHECKING:
    from pypdf import PdfReader

__all__ = ["read_pdf"]

Backend = Literal["auto", "pypdf", "pdfium"]
# Raw text of a page, or None and the reason.
RawPages = Iterator[tuple[int, str | None, str]]

# Below this pypdf is fast enough not to start a second process.
PDFIUM_FROM_PAGES = 50
PAGE_SECONDS = 30.0
MAX_TIMEOUTS = 3
# A page with fewer characters and an image on it is taken for a scan.
SCAN_CHARACTERS = 20


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
    if backend == "pdfium" and not pdfium.installed():
        raise UsageError(
            "--pdf-backend pdfium: pypdfium2 is not installed",
            hint="pip install 'cca[fast]', or leave the option out",
        )
    complaints = Complaints()
    with complaints.heard(), source.open() as stream:
        reader, secret = open_pdf(source, stream, password)
        labels = page_labels(reader)
        numbers = select_pages(pages, labels, name=source.shown)
        texts, failed, reader_name, notes = _texts(source, reader, numbers, secret, backend)
        scans = [n for n in numbers if n not in failed and _is_scan(reader, n, texts[n])]
        entries = [entry for entry in outline(reader) if entry.page in texts]
    notes += _check_text(source, numbers, texts, scans, failed)
    summary = complaints.summary()
    if summary:
        notes.append(summary)

    by_number = {n: labels[n - 1] for n in numbers}
    tidy = tidy_pages([texts[n] for n in numbers], numbers, by_number)
    return Document(
        name=source.name,
        path=source.path,
        sha256=source.sha256,
        format="pdf",
        reader=f"{reader_name} {TEXT_RULES}",
        unit="page",
        pages=tuple(
            Page(number=n, label=by_number[n], text=text)
            for n, text in zip(numbers, tidy, strict=True)
        ),
        outline=tuple(entries),
        warnings=tuple(notes),
    )


def _texts(
    source: Source,
    reader: PdfReader,
    numbers: Sequence[int],
    secret: str | None,
    backend: Backend,
) -> tuple[dict[int, str], dict[int, str], str, list[str]]:
    """Return texts by page, reasons by failed page, the reader's name, and warnings."""
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
            return *_gather(found), f"pypdfium2 {pdfium.version()}", notes
        except pdfium.PdfiumFailure as error:
            if backend == "pdfium":
                raise InputError(
                    f"{source.shown}: pdfium cannot read it ({error})", hint="--pdf-backend pypdf"
                ) from error
            notes.append(f"pdfium could not read the file ({error}); it was read with pypdf")
    return *_gather(_by_pypdf(source, reader, numbers)), f"pypdf {pypdf.__version__}", notes


def _gather(found: RawPages) -> tuple[dict[int, str], dict[int, str]]:
    texts: dict[int, str] = {}
    failed: dict[int, str] = {}
    for number, raw, reason in found:
        texts[number] = page_text(raw or "")
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


def _is_scan(reader: PdfReader, number: int, text: str) -> bool:
    if _characters(text) >= SCAN_CHARACTERS:
        return False
    try:
        with time_limit(PAGE_SECONDS):
            return has_image(reader, number)
    except OutOfTime:
        return False


def _characters(text: str) -> int:
    return sum(not c.isspace() for c in text)


def _check_text(
    source: Source,
    numbers: Sequence[int],
    texts: dict[int, str],
    scans: Sequence[int],
    failed: dict[int, str],
) -> list[str]:
    """Return warnings about pages without text; raise InputError if that is all of them."""
    if len(failed) == len(numbers):
        raise InputError(
            f"{source.shown}: no page can be read ({next(iter(failed.values()))})",
            hint=f"try another reader with --pdf-backend, or repair it: qpdf {source.quoted} "
            "repaired.pdf",
        )
    if all(_characters(text) < SCAN_CHARACTERS for text in texts.values()) and (
        scans or not any(texts.values())
    ):
        where = f"page{'s' if len(numbers) > 1 else ''} {page_ranges(numbers)}"
        has = "have" if len(numbers) > 1 else "has"
        why = "scanned images" if scans else "blank, or letters drawn as shapes"
        output = "ocr.pdf" if source.path == "-" else f"{source.name.removesuffix('.pdf')}-ocr.pdf"
        target = "in.pdf" if source.path == "-" else source.quoted
        raise InputError(
            f"{source.shown}: {where} {has} no text layer ({why})",
            hint=f"ocrmypdf {target} {output}, then run cca on that file",
        )
    notes = []
    if failed:
        notes.append(
            f"page {page_ranges(failed)} could not be read and "
            f"{'is' if len(failed) == 1 else 'are'} empty ({next(iter(failed.values()))})"
        )
    if len(scans) >= 10 or 5 * len(scans) > len(numbers):
        notes.append(
            f"{len(scans)} of {len(numbers)} pages are images without a text layer and were not "
            f"read: {page_ranges(scans)}; ocrmypdf can add the text"
        )
    share = unreadable_share(texts.values())
    if share > 0.01:
        notes.append(
            f"{share:.0%} of the characters stand for no known letter (fonts without a Unicode "
            "table); another --pdf-backend may read them"
        )
    return notes
