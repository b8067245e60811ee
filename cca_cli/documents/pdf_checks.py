"""Whether a PDF's pages have text: scans, blank pages, fonts that stand for no known letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cca_cli.documents.normalise import unreadable_share
from cca_cli.documents.pdf_file import has_image
from cca_cli.documents.ranges import page_ranges
from cca_cli.documents.source import Source
from cca_cli.documents.time_limit import OutOfTime, time_limit
from cca_cli.errors import InputError

if TYPE_CHECKING:
    from pypdf import PdfReader

__all__ = ["check_text", "is_scan"]

PAGE_SECONDS = 30.0
# A page with fewer characters and an image on it is taken for a scan.
SCAN_CHARACTERS = 20


def is_scan(reader: PdfReader, number: int, text: str) -> bool:
    """Return whether a page shows an image and next to no text."""
    if _characters(text) >= SCAN_CHARACTERS:
        return False
    try:
        with time_limit(PAGE_SECONDS):
            return has_image(reader, number)
    except OutOfTime:
        return False


def _characters(text: str) -> int:
    return sum(not c.isspace() for c in text)


def check_text(
    source: Source,
    numbers: Sequence[int],
    texts: Mapping[int, str],
    scans: Sequence[int],
    failed: Mapping[int, str],
) -> list[str]:
    """Return warnings about pages without text.

    Args:
        source: The file.
        numbers: Pages that were asked for.
        texts: Clean text by page.
        scans: Pages that show images and no text.
        failed: Why a page could not be read, by page.

    Raises:
        InputError: If no page has text.
    """
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
