"""Which reader a file needs: by its first bytes, then by its name.

A name can lie (a saved error page called report.pdf), so content is asked first. Formats that
are known but not read get a message of their own and the command that converts them.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import PurePath
from typing import Literal

from cca_cli.documents.source import Source
from cca_cli.errors import InputError

__all__ = ["Kind", "detect"]

Kind = Literal["pdf", "text", "markdown"]

_MARKDOWN = frozenset({".md", ".markdown", ".mdown", ".mkd", ".mkdn", ".mdwn", ".qmd", ".rmd"})
_TEXT = frozenset({".txt", ".text", ".log", ".rst", ".tex", ".org", ".adoc", ".csv", ".tsv"})
_PDF_HEADER = re.compile(rb"%PDF-\d")
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html[\s>])",
    re.I | re.S,
)

# First bytes -> (what it is, how to make a readable file of it). {in} and {stem} are filled in.
_PANDOC = "pandoc {in} -t markdown -o {stem}.md, then run cca on {stem}.md"
_SOFFICE = "soffice --headless --convert-to pdf {in}, then run cca on {stem}.pdf"
_OCR = "ocrmypdf --image-dpi 300 {in} {stem}.pdf, then run cca on {stem}.pdf"
_UNPACK = "unpack it first, then run cca on the documents in it"
_NO_TEXT = "cca reads PDF, plain text and Markdown"
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", _OCR),
    (0, b"\xff\xd8\xff", "a JPEG image", _OCR),
    (0, b"GIF8", "a GIF image", _OCR),
    (0, b"II*\x00", "a TIFF image", _OCR),
    (0, b"MM\x00*", "a TIFF image", _OCR),
    (8, b"WEBP", "a WebP image", _OCR),
    (4, b"ftypheic", "a HEIC image", _OCR),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image", _OCR),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old or encrypted Office file", _SOFFICE),
    (0, b"{\\rtf", "an RTF document", _SOFFICE),
    (0, b"%!PS", "a PostScript file", "ps2pdf {in} {stem}.pdf, then run cca on {stem}.pdf"),
    (0, b"AT&TFORM", "a DjVu file", "ddjvu -format=pdf {in} {stem}.pdf, then ocrmypdf"),
    (60, b"BOOKMOBI", "a Kindle book", "ebook-convert {in} {stem}.pdf, then run cca on it"),
    (0, b"\x1f\x8b", "gzip-compressed", "gunzip -c {in} > {stem}, then run cca on {stem}"),
    (0, b"BZh", "bzip2-compressed", "bunzip2 -c {in} > {stem}, then run cca on {stem}"),
    (0, b"\xfd7zXZ\x00", "xz-compressed", "xz -dc {in} > {stem}, then run cca on {stem}"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed", "zstd -dc {in} > {stem}, then run cca on {stem}"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x7fELF", "a program", _NO_TEXT),
    (0, b"MZ\x90\x00", "a program", _NO_TEXT),
    (0, b"SQLite format 3\x00", "an SQLite database", _NO_TEXT),
)
# A member's name, or the declared media type, tells what a zip file is.
_ZIP: tuple[tuple[str, str, str], ...] = (
    ("application/epub+zip", "an EPUB book", _PANDOC),
    ("META-INF/container.xml", "an EPUB book", _PANDOC),
    ("application/vnd.oasis.opendocument.text", "an OpenDocument text", _PANDOC),
    ("application/vnd.oasis.opendocument", "an OpenDocument file", _SOFFICE),
    ("word/", "a Word document", _PANDOC),
    ("ppt/", "a PowerPoint presentation", _SOFFICE),
    ("xl/", "an Excel workbook", _SOFFICE),
)


def detect(source: Source, kind: Kind | None = None) -> Kind:
    """Decide how to read a source.

    Args:
        source: The bytes.
        kind: What the user says it is; overrules the name and an HTML page's first bytes, but
            not the signature of a binary format.

    Raises:
        InputError: If the format is not one that is read, with the command that converts it.
    """
    if _is_pdf(source):
        if kind in (None, "pdf"):
            return "pdf"
        raise InputError(f"{source.shown}: is a PDF, not {kind}", hint="leave out --type")
    for offset, magic, what, hint in _MAGIC:
        if source.head.startswith(magic, offset):
            raise _unsupported(source, what, hint)
    if source.head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        raise _unsupported(source, *_zip_content(source))
    html = _HTML.match(source.head) is not None
    if kind == "pdf" or source.suffix == ".pdf":
        what = "an HTML page" if html else "not a PDF: no %PDF- header in its first 1,024 bytes"
        raise InputError(
            f"{source.shown}: is {what}",
            hint=f"fetch the file again, or look at it: head -c 200 {source.quoted}",
        )
    if kind is not None:
        return kind
    if source.suffix in _MARKDOWN:
        return "markdown"
    if html or source.suffix in (".html", ".htm", ".xhtml"):
        raise _unsupported(source, "an HTML page", _PANDOC)
    return "text"


def _is_pdf(source: Source) -> bool:
    head = source.head[:1024]
    if _PDF_HEADER.match(head.lstrip(b"\xef\xbb\xbf\x00\t\n\f\r ")):
        return True
    # Mail or HTTP headers may stand before the PDF, but a text about PDF is still a text.
    return source.suffix not in _MARKDOWN | _TEXT and _PDF_HEADER.search(head) is not None


def _zip_content(source: Source) -> tuple[str, str]:
    try:
        with source.open() as stream, zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
            if names and names[0] == "mimetype" and archive.getinfo("mimetype").file_size < 200:
                names.insert(0, archive.read("mimetype").decode("ascii", "replace").strip())
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        return "a damaged zip file", "fetch the file again"
    for start, what, hint in _ZIP:
        if any(name.startswith(start) for name in names):
            return what, hint
    return "a zip archive", _UNPACK


def _unsupported(source: Source, what: str, hint: str) -> InputError:
    stem = PurePath(source.shown).stem if source.path != "-" else "document"
    shown = source.quoted if source.path != "-" else "FILE"
    text = hint.replace("{in}", shown).replace("{stem}", stem)
    return InputError(f"{source.shown}: is {what}, which cca does not read", hint=text)
