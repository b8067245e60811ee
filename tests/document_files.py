"""Small documents of every zipped format, made by hand so that tests know what is in them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
ODF_PARTS = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{part}:1.0"'
    for name, part in (
        ("office", "office"), ("text", "text"), ("table", "table"), ("style", "style"),
        ("draw", "drawing"),
    )
)  # fmt: skip
ODF = f"""{ODF_PARTS} xmlns:dc="http://purl.org/dc/elements/1.1/"
xmlns:xlink="http://www.w3.org/1999/xlink\""""
PPTX = (
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    f'xmlns:r="{OFFICE}"'
)


def make_zip(path: Path, members: Mapping[str, str | bytes]) -> Path:
    """Write a zip file with deflated members, "mimetype" first and as it is."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            stored = zipfile.ZIP_STORED if name == "mimetype" else None
            archive.writestr(name, content, compress_type=stored)
    return path


def relations(**targets: str) -> str:
    """Return a relationships part: id -> "kind target"."""
    entries = "".join(
        f'<Relationship Id="{name}" Type="{OFFICE}/{told.split()[0]}" Target="{told.split()[1]}"/>'
        for name, told in targets.items()
    )
    return f'<Relationships xmlns="{RELATIONS}">{entries}</Relationships>'


def make_docx(path: Path, body: str, **parts: str) -> Path:
    """Write a Word document: its body's XML, and further parts by name ("styles")."""
    members = {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": relations(r1="officeDocument word/document.xml"),
        "word/_rels/document.xml.rels": relations(
            **{f"p{i}": f"{kind} {kind}.xml" for i, kind in enumerate(parts)}
        ),
        "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
    }
    for kind, content in parts.items():
        members[f"word/{kind}.xml"] = f"<w:{kind} {W}>{content}</w:{kind}>"
    return make_zip(path, members)


def paragraph(text: str, style: str = "", **properties: str) -> str:
    """Return a Word paragraph's XML."""
    inner = f'<w:pStyle w:val="{style}"/>' if style else ""
    inner += "".join(f'<w:{name} w:val="{told}"/>' for name, told in properties.items())
    return f"<w:p><w:pPr>{inner}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def make_epub(
    path: Path,
    chapters: Mapping[str, str],
    *,
    nav: str = "",
    ncx: str = "",
    metadata: str = "",
    extra: Mapping[str, str | bytes] | None = None,
) -> Path:
    """Write an EPUB book: chapters' bodies by file name, in reading order."""
    items = "".join(
        f'<item id="c{i}" href="{name}" media-type="application/xhtml+xml"/>'
        for i, name in enumerate(chapters)
    )
    if nav:
        items += (
            '<item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
        )
    if ncx:
        items += '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>'
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(len(chapters)))
    members: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:'
        'container"><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>',
        "OPS/book.opf": f'<package xmlns="http://www.idpf.org/2007/opf"><metadata>{metadata}'
        f'</metadata><manifest>{items}</manifest><spine toc="ncx">{spine}</spine></package>',
        **{f"OPS/{name}": xhtml(body) for name, body in chapters.items()},
    }
    if nav:
        members["OPS/nav.xhtml"] = xhtml(nav)
    if ncx:
        members["OPS/toc.ncx"] = (
            '<!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN" "http://example.org/ncx.dtd">'
            f'<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><navMap>{ncx}</navMap></ncx>'
        )
    return make_zip(path, {**members, **(extra or {})})


def xhtml(body: str) -> str:
    """Return an XHTML page."""
    return (
        '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml" '
        'xmlns:epub="http://www.idpf.org/2007/ops"><head><title/><script src="x.js"/></head>'
        f"<body>{body}</body></html>"
    )


def make_odt(path: Path, body: str, styles: str = "") -> Path:
    """Write an OpenDocument text: its body's XML, and automatic styles."""
    return make_zip(
        path,
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "content.xml": f"<office:document-content {ODF}><office:automatic-styles>{styles}"
            f"</office:automatic-styles><office:body><office:text>{body}</office:text>"
            "</office:body></office:document-content>",
        },
    )


def make_pptx(path: Path, slides: list[str], notes: Mapping[int, str] | None = None) -> Path:
    """Write a presentation: each slide's shapes, and notes by slide from 1."""
    ids = "".join(f'<p:sldId id="{i}" r:id="s{i}"/>' for i in range(1, len(slides) + 1))
    members = {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": relations(r1="officeDocument ppt/presentation.xml"),
        "ppt/presentation.xml": f"<p:presentation {PPTX}><p:sldIdLst>{ids}</p:sldIdLst>"
        "</p:presentation>",
        "ppt/_rels/presentation.xml.rels": relations(
            **{f"s{i}": f"slide slides/slide{i}.xml" for i in range(1, len(slides) + 1)}
        ),
    }
    for i, shapes in enumerate(slides, start=1):
        members[f"ppt/slides/slide{i}.xml"] = _slide(shapes)
        if notes and i in notes:
            members[f"ppt/slides/_rels/slide{i}.xml.rels"] = relations(
                n="notesSlide ../notesSlides/notes.xml"
            )
            members["ppt/notesSlides/notes.xml"] = _slide(shape(notes[i]))
    return make_zip(path, members)


def shape(*texts: str, kind: str = "body") -> str:
    """Return a shape with paragraphs, as a slide holds it."""
    paragraphs = "".join(f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p>" for text in texts)
    return (
        f'<p:sp><p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>'
        f"<p:txBody>{paragraphs}</p:txBody></p:sp>"
    )


def _slide(shapes: str) -> str:
    return f"<p:sld {PPTX}><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>"
