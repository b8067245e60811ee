"""Small sound documents of every format, which the fuzzer spoils, and the parts that make them.

Made here rather than kept as files, so that the fuzzer needs nothing but the project. A folder of
real documents may be added: fuzz_documents.py --seeds.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence

__all__ = ["CANARY_PATH", "PARTS", "PROSE", "XML", "archive", "pdf", "seeds", "stream"]

CANARY_PATH = "/tmp/cca-fuzz-canary.txt"
"""A file that nothing in a document may make a reader open."""

PROSE = "The keeper of the lighthouse wrote down the weather. The nephew inherits the estate. "

XML = '<?xml version="1.0" encoding="UTF-8"?>'
XHTML = (
    f'{XML}<html xmlns="http://www.w3.org/1999/xhtml"><head><title>One</title></head><body>'
    f"<h1>One</h1><p>{PROSE * 4}</p><table><tr><td>a</td><td>1</td></tr></table></body></html>"
)
CONTAINER = (
    f'{XML}<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/>'
    "</rootfiles></container>"
)
OPF = (
    f'{XML}<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i">'
    '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Book</dc:title></metadata>'
    '<manifest><item id="a" href="one.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="b" href="two.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    '<item id="x" href="toc.ncx" media-type="application/x-dtbncx+xml"/></manifest>'
    '<spine toc="x"><itemref idref="a"/><itemref idref="b"/></spine></package>'
)
NAV = (
    f'{XML}<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops">'
    '<body><nav epub:type="toc"><ol><li><a href="one.xhtml">One</a><ol>'
    '<li><a href="two.xhtml#s">Two</a></li></ol></li></ol></nav></body></html>'
)
NCX = (
    f'{XML}<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" version="2005-1"><navMap>'
    '<navPoint id="p"><navLabel><text>One</text></navLabel><content src="one.xhtml"/></navPoint>'
    "</navMap></ncx>"
)
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
WORD = (
    f'{XML}<w:document xmlns:w="{_W}"><w:body><w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr>'
    f"<w:r><w:t>One</w:t></w:r></w:p><w:p><w:r><w:t>{PROSE * 4}</w:t></w:r></w:p>"
    "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
    "</w:body></w:document>"
)
_WORD_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
CONTENT_TYPES = (
    f'{XML}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    f'<Override PartName="/word/document.xml" ContentType="{_WORD_TYPE}"/></Types>'
)
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
RELATIONS = (
    f'{XML}<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    f'<Relationship Id="r" Type="{_OFFICE}" Target="word/document.xml"/></Relationships>'
)
STYLES = (
    f'{XML}<w:styles xmlns:w="{_W}"><w:style w:type="paragraph" w:styleId="Heading1">'
    '<w:name w:val="heading 1"/><w:basedOn w:val="Normal"/></w:style></w:styles>'
)
_ODF = "urn:oasis:names:tc:opendocument:xmlns"
ODT = (
    f'{XML}<office:document-content xmlns:office="{_ODF}:office:1.0" xmlns:text="{_ODF}:text:1.0" '
    f'xmlns:table="{_ODF}:table:1.0"><office:body><office:text>'
    '<text:h text:outline-level="1">One</text:h>'
    f'<text:p>{PROSE * 4}<text:s text:c="3"/>end</text:p>'
    "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
    "</table:table-row></table:table></office:text></office:body></office:document-content>"
)
_SHEET = "http://schemas.openxmlformats.org"
_NAMES = (
    f'xmlns:p="{_SHEET}/presentationml/2006/main" xmlns:a="{_SHEET}/drawingml/2006/main" '
    f'xmlns:r="{_SHEET}/officeDocument/2006/relationships"'
)
SLIDE = (
    f'{XML}<p:sld {_NAMES}><p:cSld><p:spTree><p:sp><p:nvSpPr><p:nvPr><p:ph type="title"/></p:nvPr>'
    "</p:nvSpPr><p:txBody><a:p><a:r><a:t>One</a:t></a:r></a:p></p:txBody></p:sp><p:sp><p:txBody>"
    f"<a:p><a:r><a:t>{PROSE * 4}</a:t></a:r></a:p></p:txBody></p:sp></p:spTree></p:cSld></p:sld>"
)
PARTS: dict[str, dict[str, str]] = {
    "epub": {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": OPF,
        "OEBPS/one.xhtml": XHTML,
        "OEBPS/two.xhtml": XHTML.replace("One", "Two"),
        "OEBPS/nav.xhtml": NAV,
        "OEBPS/toc.ncx": NCX,
    },
    "docx": {
        "[Content_Types].xml": CONTENT_TYPES,
        "_rels/.rels": RELATIONS,
        "word/document.xml": WORD,
        "word/styles.xml": STYLES,
    },
    "pptx": {
        "[Content_Types].xml": CONTENT_TYPES.replace("wordprocessingml.document", "x"),
        "_rels/.rels": RELATIONS.replace("word/document.xml", "ppt/presentation.xml"),
        "ppt/presentation.xml": f'{XML}<p:presentation {_NAMES}><p:sldIdLst><p:sldId id="256" '
        'r:id="r"/></p:sldIdLst></p:presentation>',
        "ppt/_rels/presentation.xml.rels": RELATIONS.replace('officeDocument"', 'slide"').replace(
            "word/document.xml", "slides/slide1.xml"
        ),
        "ppt/slides/slide1.xml": SLIDE,
    },
    "odt": {"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": ODT},
}
"""Members of the formats that are zip archives, by format."""


def archive(members: Mapping[str, str | bytes]) -> bytes:
    """Zip members; the first, where it is the media type, uncompressed as the formats demand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, body in members.items():
            stored = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            # A fixed date: the same seed gives the same bytes.
            out.writestr(zipfile.ZipInfo(name), body, compress_type=stored)
    return buffer.getvalue()


def stream(body: bytes, extra: str = "", *, flate: bool = True) -> bytes:
    """Return a PDF stream object's body."""
    packed = zlib.compress(body, 9) if flate else body
    packing = "/Filter/FlateDecode" if flate else ""
    head = f"<</Length {len(packed)}{packing}{extra}>>\nstream\n".encode()
    return head + packed + b"\nendstream"


def pdf(objects: Sequence[str | bytes], trailer: str = "") -> bytes:
    """Write a PDF of objects numbered from 1, the first of them its catalogue."""
    out = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n" % number
        out += body if isinstance(body, bytes) else body.encode("latin-1")
        out += b"\nendobj\n"
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += f"trailer\n<</Size {len(objects) + 1}/Root 1 0 R{trailer}>>\n".encode()
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def _plain_pdf() -> bytes:
    text = b"BT /F1 12 Tf 72 720 Td (" + PROSE.encode() + b") Tj 0 -14 Td (More of it.) Tj ET"
    page = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 5 0 R/Resources<</Font<</F1 6 "
    page += "0 R>>>>>>"
    return pdf(
        [
            "<</Type/Catalog/Pages 2 0 R/Outlines 7 0 R/PageLabels<</Nums[0<</S/r>>1<</S/D>>]>>>>",
            "<</Type/Pages/Kids[3 0 R 4 0 R]/Count 2>>",
            page,
            page,
            stream(text),
            "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/ToUnicode 9 0 R>>",
            "<</Type/Outlines/First 8 0 R/Last 8 0 R/Count 1>>",
            "<</Title(One)/Parent 7 0 R/Dest[3 0 R/Fit]>>",
            stream(b"begincmap 1 beginbfrange <20> <7e> <0020> endbfrange endcmap"),
        ]
    )


def seeds() -> dict[str, bytes]:
    """Return one small document of every format that is read, and of some encodings, by name."""
    lines = f"Chapter 1\n\n{PROSE * 10}\n\nChapter 2\n\n{PROSE * 10}\n"
    markdown = f"# One\n\n{PROSE * 6}\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Two\n\n- x\n  > y\n"
    cat = "\u543e\u8f29\u306f\u732b\u3067\u3042\u308b\u3002"
    return {
        "plain.pdf": _plain_pdf(),
        **{f"book.{kind}": archive(members) for kind, members in PARTS.items()},
        "page.html": b"<!doctype html>" + XHTML.partition("?>")[2].encode(),
        "page.xhtml": XHTML.encode(),
        "notes.md": (markdown + "```python\nx = 1\n```\n").encode(),
        "plain.txt": lines.encode(),
        "pages.txt": "\f".join([PROSE] * 5).encode(),
        "utf16.txt": lines.encode("utf-16"),
        "latin.txt": ("Gru\u00dfe aus K\u00f6ln. " * 40).encode("latin-1"),
        "japanese.txt": (cat * 40).encode("shift-jis"),
        "code.py": b'def f(x):\n    """Return x."""\n    return x\n' * 20,
    }
