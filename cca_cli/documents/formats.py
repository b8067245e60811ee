"""Which reader a file needs: by its first bytes, then by its name.

A name can lie (a saved error page called report.pdf), so content is asked first. Formats that
are known but not read get a message of their own and the command that converts them.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Literal

from cca_cli.documents.names import CODE, HTML, MARKDOWN, TEXT, is_code_name
from cca_cli.documents.source import Source
from cca_cli.errors import InputError

__all__ = ["Kind", "detect"]

Kind = Literal["pdf", "epub", "html", "docx", "odt", "pptx", "markdown", "code", "text"]

_PDF_HEADER = re.compile(rb"%PDF-\d")
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html[\s>])",
    re.I | re.S,
)

_TAG = re.compile(
    rb"</?(?:p|div|h[1-6]|ul|ol|li|table|tr|td|span|a|br|body|head|title)[\s/>]", re.I
)
# Signs of Markdown at the start of a line, and links: each of them rare elsewhere.
_MARKDOWN_SIGN = re.compile(
    rb"^(?:#{2,6} \S|```|~~~|\|[ :]?-{2,}|[-*+] \[[ xX]\] |\[[^\]\n]+\]: \S)"
    rb"|\]\((?:https?:|#|[\w./-]+\))",
    re.M,
)
_SHEBANG = re.compile(rb"(?:\xef\xbb\xbf)?#!\s*/|<\?php\b")
# Fewer tags or signs than this may stand in any text.
MIN_SIGNS = 3

# First bytes -> (what it is, how to make a readable file of it). {in} and {stem} are filled in.
_PANDOC = "pandoc {in} -t markdown -o {stem}.md, then run cca on {stem}.md"
_SOFFICE = "soffice --headless --convert-to pdf {in}, then run cca on {stem}.pdf"
_OCR = "ocrmypdf --image-dpi 300 {in} {stem}.pdf, then run cca on {stem}.pdf"
_UNPACK = "unpack it first, then run cca on the documents in it"
_NO_TEXT = "cca reads PDF, EPUB, HTML, DOCX, ODT, PPTX, Markdown, source code and plain text"
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
# A member's name, or the declared media type, tells what a zip file is: the format if it is read,
# else what it is and how to convert it.
_ZIP: tuple[tuple[str, Kind | tuple[str, str]], ...] = (
    ("application/epub+zip", "epub"),
    ("META-INF/container.xml", "epub"),
    ("application/vnd.oasis.opendocument.text", "odt"),
    ("application/vnd.oasis.opendocument", ("an OpenDocument file", _SOFFICE)),
    ("word/document", "docx"),
    ("ppt/presentation.xml", "pptx"),
    ("xl/workbook.", ("an Excel workbook", _SOFFICE)),
    ("visio/", ("a Visio drawing", _SOFFICE)),
    ("Index/Document.iwa", ("a Pages, Numbers or Keynote file", "export it as PDF or DOCX")),
)

_SHOWN: dict[Kind, str] = {
    "pdf": "a PDF",
    "epub": "an EPUB book",
    "docx": "a Word document",
    "odt": "an OpenDocument text",
    "pptx": "a PowerPoint presentation",
}
_SIGNED = frozenset(_SHOWN)
_EXPECTED: dict[str, Kind] = {
    ".pdf": "pdf",
    ".epub": "epub",
    ".docx": "docx",
    ".odt": "odt",
    ".pptx": "pptx",
}


def detect(source: Source, kind: Kind | None = None) -> Kind:
    """Decide how to read a source.

    Args:
        source: The bytes.
        kind: What the user says it is; overrules the name and the look of a text, but not the
            signature of a binary format.

    Raises:
        InputError: If the format is not one that is read, with the command that converts it.
    """
    found = _by_signature(source)
    if found is not None:
        if kind in (None, found):
            return found
        raise InputError(
            f"{source.shown}: its content is {_SHOWN[found]}, not {kind}", hint="leave out --type"
        )
    html = _HTML.match(source.head) is not None
    wanted = kind or _EXPECTED.get(source.suffix)
    if wanted in _SIGNED:
        what = "an HTML page" if html else f"not {_SHOWN[wanted]}: it does not begin like one"
        raise InputError(
            f"{source.shown}: is {what}",
            hint=f"fetch the file again, or look at it: head -c 200 {source.quoted}",
        )
    return kind or _text_kind(source, html)


def _by_signature(source: Source) -> Kind | None:
    """Return the format that the first bytes leave no doubt about, if they do."""
    if _is_pdf(source):
        return "pdf"
    for offset, magic, what, hint in _MAGIC:
        if source.head.startswith(magic, offset):
            raise _unsupported(source, what, hint)
    if source.head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_content(source)
    return None


def _text_kind(source: Source, html: bool) -> Kind:
    """Tell the kinds of text apart: by what they say they are, by name, by their look."""
    head = source.head
    if _SHEBANG.match(head) or (source.path != "-" and is_code_name(source.name)):
        return "code"
    if html:
        return "html"
    suffix = source.suffix
    if suffix in MARKDOWN:
        return "markdown"
    tags = len(_TAG.findall(head))
    if suffix in HTML and (tags or b"\0" in head):
        return "html"
    if suffix in TEXT:
        return "text"
    # Markdown may hold HTML, and begin with it; HTML holds no Markdown.
    if len(_MARKDOWN_SIGN.findall(head)) >= MIN_SIGNS:
        return "markdown"
    begins = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    return "html" if begins == b"<" and tags >= MIN_SIGNS else "text"


def _is_pdf(source: Source) -> bool:
    head = source.head[:1024]
    if _PDF_HEADER.match(head.lstrip(b"\xef\xbb\xbf\x00\t\n\f\r ")):
        return True
    # Mail or HTTP headers may stand before the PDF, but a text about PDF is still a text.
    return source.suffix not in MARKDOWN | TEXT | CODE and _PDF_HEADER.search(head) is not None


def _zip_content(source: Source) -> Kind:
    from cca_cli.documents.archives import open_archive

    with open_archive(source) as archive:
        names = archive.names
        if names and names[0] == "mimetype":
            names.insert(0, archive.read("mimetype")[:200].decode("ascii", "replace").strip())
    for start, what in _ZIP:
        if any(name.startswith(start) for name in names):
            if isinstance(what, str):
                return what
            raise _unsupported(source, *what)
    raise _unsupported(source, "a zip archive", _UNPACK)


def _unsupported(source: Source, what: str, hint: str) -> InputError:
    stem = PurePath(source.shown).stem if source.path != "-" else "document"
    shown = source.quoted if source.path != "-" else "FILE"
    text = hint.replace("{in}", shown).replace("{stem}", stem)
    return InputError(f"{source.shown}: is {what}, which cca does not read", hint=text)
