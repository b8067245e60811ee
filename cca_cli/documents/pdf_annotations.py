"""What stands on a PDF's pages but not in their text: form entries and notes; and attachments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cca_cli.documents.time_limit import OutOfTime, time_limit

if TYPE_CHECKING:
    from pypdf import PdfReader

__all__ = ["annotation_lines", "count_attachments"]

SECONDS = 10.0
# More than this on one page, or in one entry, and the file means harm.
MAX_ANNOTATIONS = 2000
MAX_LENGTH = 10_000
_NOTES = frozenset({"/Text", "/FreeText"})
_PASSWORD_FIELD = 1 << 13


def annotation_lines(reader: PdfReader, number: int) -> list[str]:
    """Return the form entries and notes of a page, one a line; empty where they are unreadable.

    Args:
        reader: The file.
        number: Page, from 1.

    Returns:
        "[First name: Ada]" for what was entered, "[note: check this]" for what was noted.
    """
    lines: list[str] = []
    try:
        with time_limit(SECONDS):
            entries = reader.pages[number - 1].get("/Annots")
            entries = entries.get_object() if entries is not None else None
            for entry in (entries or [])[:MAX_ANNOTATIONS]:
                if line := _line(entry.get_object()):
                    lines.append(line)
    except (Exception, OutOfTime):  # broken entries raise far more than pypdf's own errors
        return lines
    return lines


def _line(entry: Any) -> str:
    kind = entry.get("/Subtype")
    if kind in _NOTES:
        text = _text(entry.get("/Contents"))
        return f"[note: {text}]" if text else ""
    if kind == "/FileAttachment":
        file = entry.get("/FS")
        file = file.get_object() if file is not None else {}
        name = _text(file.get("/UF")) or _text(file.get("/F")) or "without a name"
        return f"[attached file, not read: {name}]"
    if kind != "/Widget":
        return ""
    value = _text(_inherited(entry, "/V"))
    flags = _inherited(entry, "/Ff")
    secret = isinstance(flags, int) and flags & _PASSWORD_FIELD
    if not value or _inherited(entry, "/FT") not in ("/Tx", "/Ch") or secret:
        return ""
    name = _text(_inherited(entry, "/TU")) or _text(_inherited(entry, "/T")) or "entry"
    return f"[{name}: {value}]"


def _inherited(entry: Any, key: str) -> Any:
    """Return a field's property, which may stand with the field above it."""
    for _ in range(8):
        found = entry.get(key)
        if found is not None:
            return found.get_object()
        parent = entry.get("/Parent")
        if parent is None:
            return None
        entry = parent.get_object()
    return None


def _text(value: Any) -> str:
    return " ".join(value.split())[:MAX_LENGTH] if isinstance(value, str) else ""


def count_attachments(reader: PdfReader) -> int:
    """Return how many files are embedded in the document; 0 where that cannot be found out."""
    try:
        with time_limit(SECONDS):
            names = reader.root_object["/Names"]["/EmbeddedFiles"]["/Names"]  # type: ignore[index]
            return len(names) // 2
    except (Exception, OutOfTime):
        return 0
