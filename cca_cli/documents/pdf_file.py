"""A PDF as pypdf sees it: opening, password, page labels, outline, images."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cca_cli.documents.source import Source
from cca_cli.documents.time_limit import OutOfTime, time_limit
from cca_cli.errors import InputError
from cca_models.documents import OutlineEntry

if TYPE_CHECKING:
    from pypdf import PdfReader

__all__ = ["Complaints", "has_image", "open_pdf", "outline", "page_labels"]

# For the cross-reference table, the page tree, the outline: what one reads before any page.
OPEN_SECONDS = 60.0
_DIGITS = re.compile(r"\d+")


class Complaints(logging.Handler):
    """Gathers what pypdf logs, each kind once, in place of a thousand lines on stderr."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message if it is the first that differs in more than numbers."""
        message = record.getMessage()
        self.first.setdefault(_DIGITS.sub("#", message), message)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Take over the `pypdf` logger, and Python warnings of the libraries beneath it."""
        logger = logging.getLogger("pypdf")
        handlers, propagate = logger.handlers, logger.propagate
        logger.handlers, logger.propagate = [self], False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logger.handlers, logger.propagate = handlers, propagate

    def summary(self) -> str | None:
        """Return one sentence for the user, or None if there was nothing."""
        if not self.first:
            return None
        kinds = len(self.first)
        sample = " ".join(next(iter(self.first.values())).split()).rstrip(".")
        if len(sample) > 120:
            sample = sample[:117] + "..."
        more = f", and {kinds - 1} other kinds of fault" if kinds > 1 else ""
        return f"the PDF has faults, pypdf read it as best it could ({sample}{more})"


def open_pdf(
    source: Source, stream: Any, password: Callable[[], str | None] | None
) -> tuple[PdfReader, str | None]:
    """Open a PDF and unlock it.

    Args:
        source: The file, for messages.
        stream: Its bytes, seekable; must stay open while the reader is used.
        password: Called if an empty password does not open it.

    Returns:
        The reader, and the password that opened the file: None if it is not encrypted.

    Raises:
        InputError: If the file is damaged, has no pages, or stays locked.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    try:
        with time_limit(OPEN_SECONDS):
            # pypdf's own limits on stream, array and tree sizes stand at their defaults.
            reader = PdfReader(stream)
            used = _unlock(source, reader, password) if reader.is_encrypted else None
            count = len(reader.pages)
    except InputError:
        raise
    except DependencyError as error:
        raise InputError(
            f"{source.shown}: its encryption needs a library that is not installed",
            hint="pip install 'pypdf[crypto]'",
        ) from error
    except OutOfTime:
        raise _damaged(source, f"not opened within {OPEN_SECONDS:.0f} s") from None
    except Exception as error:  # broken files raise far more than pypdf's own errors
        raise _damaged(source, _reason(error)) from error
    if not count:
        raise _damaged(source, "it has no pages")
    return reader, used


def _unlock(source: Source, reader: PdfReader, password: Callable[[], str | None] | None) -> str:
    if reader.decrypt(""):
        return ""
    given = password() if password is not None else None
    if given is None:
        raise InputError(
            f"{source.shown}: is encrypted and needs a password", hint="--password-file FILE"
        )
    if not reader.decrypt(given):
        raise InputError(
            f"{source.shown}: is encrypted, and the password given is wrong",
            hint="check the file named by --password-file (its first line is the password)",
        )
    return given


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:120] or type(error).__name__


def _damaged(source: Source, reason: str) -> InputError:
    return InputError(
        f"{source.shown}: damaged PDF ({reason})",
        hint=f"fetch the file again, or try to repair it: qpdf {source.quoted} repaired.pdf",
    )


def page_labels(reader: PdfReader) -> list[str | None]:
    """Return the printed label of every page; None for all if the file gives none."""
    count = len(reader.pages)
    try:
        with time_limit(OPEN_SECONDS):
            if "/PageLabels" in reader.root_object:
                labels = [clean_title(label) or None for label in reader.page_labels]
                if len(labels) == count:
                    return list(labels)
    except (Exception, OutOfTime):
        logging.getLogger("pypdf").warning("the page labels cannot be read")
    return [None] * count


def outline(reader: PdfReader) -> list[OutlineEntry]:
    """Return the outline, flattened; entries that lead to no page of the file are left out."""
    entries: list[OutlineEntry] = []

    def walk(items: list[Any], level: int) -> None:
        for item in items:
            if isinstance(item, list):
                walk(item, level + 1)
                continue
            title = clean_title(str(item.title or ""))
            index = reader.get_destination_page_number(item)
            if title and index is not None and index >= 0:
                entries.append(OutlineEntry(title=title, page=index + 1, level=level))

    try:
        with time_limit(OPEN_SECONDS):
            walk(reader.outline, 0)
    except (Exception, OutOfTime):
        logging.getLogger("pypdf").warning("the outline cannot be read")
    return entries


def clean_title(text: str) -> str:
    """Return a title on one line, without control characters."""
    from cca_cli.documents.normalise import clean, fold

    return " ".join(fold(clean(text), spaces=True).split())


def has_image(reader: PdfReader, number: int) -> bool:
    """Return whether a page shows an image; False where that cannot be found out."""
    try:
        return len(reader.pages[number - 1].images.keys()) > 0
    except Exception:
        return False
