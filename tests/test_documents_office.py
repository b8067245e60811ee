"""DOCX, ODT and PPTX: headings, lists, tables, notes, what was deleted."""

import pytest
from document_files import make_docx, make_odt, make_pptx, make_zip, paragraph, shape

from cca_cli.documents import read_document
from cca_cli.errors import InputError


def text_of(document):
    return "\n\n".join(page.text for page in document.pages)


def outline(document):
    return [(e.title, e.page, e.level) for e in document.outline]


@pytest.fixture
def docx(tmp_path):
    return lambda body, **parts: read_document(str(make_docx(tmp_path / "a.docx", body, **parts)))


@pytest.fixture
def odt(tmp_path):
    return lambda body, styles="": read_document(str(make_odt(tmp_path / "a.odt", body, styles)))


STYLES = (
    '<w:style w:styleId="T"><w:name w:val="Title"/></w:style>'
    '<w:style w:styleId="H1"><w:name w:val="heading 1"/></w:style>'
    '<w:style w:styleId="Mine"><w:name w:val="Mine"/><w:basedOn w:val="Base"/></w:style>'
    '<w:style w:styleId="Base"><w:basedOn w:val="Base"/><w:pPr><w:outlineLvl w:val="1"/></w:pPr>'
    '</w:style><w:style w:styleId="HeadB"><w:name w:val="HeadB"/></w:style>'
    '<w:style w:styleId="Code"><w:name w:val="Code"/><w:pPr><w:contextualSpacing/></w:pPr>'
    "</w:style>"
)


def test_docx_headings_by_style(docx):
    body = (
        paragraph("Book", "T") + paragraph("One", "H1") + paragraph("text")
        + paragraph("Inherited", "Mine") + paragraph("more") + paragraph("Direct", outlineLvl="2")
        + paragraph("end") + paragraph("Publisher's", "HeadB") + paragraph("x")
    )  # fmt: skip
    document = docx(body, styles=STYLES)
    assert outline(document) == [
        ("Book", 1, 0), ("One", 1, 0), ("Inherited", 2, 1), ("Direct", 3, 2), ("Publisher's", 4, 2),
    ]  # fmt: skip
    assert document.pages[1].text == "Inherited\n\nmore"


def test_docx_code_keeps_its_lines(docx):
    body = "".join(paragraph(line, "Code") for line in ("fn main() {", "    go();", "}"))
    assert text_of(docx(body + paragraph("prose"), styles=STYLES)) == (
        "fn main() {\n    go();\n}\n\nprose"
    )


NUMBERING = (
    '<w:abstractNum w:abstractNumId="0">'
    '<w:lvl w:ilvl="0"><w:start w:val="3"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/>'
    '</w:lvl><w:lvl w:ilvl="1"><w:numFmt w:val="lowerRoman"/><w:lvlText w:val="%1.%2)"/></w:lvl>'
    "</w:abstractNum>"
    '<w:abstractNum w:abstractNumId="1"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/></w:lvl>'
    '</w:abstractNum><w:num w:numId="7"><w:abstractNumId w:val="0"/></w:num>'
    '<w:num w:numId="8"><w:abstractNumId w:val="1"/></w:num>'
)


def item(text, number, level=0):
    return (
        f'<w:p><w:pPr><w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>'
        f"</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"
    )


def test_docx_lists_are_counted(docx):
    body = (
        item("a", 7) + item("b", 7, 1) + item("c", 7, 1) + item("d", 7) + item("e", 7, 1)
        + paragraph("x") + item("dot", 8) + item("none", 0)
    )  # fmt: skip
    assert text_of(docx(body, numbering=NUMBERING)) == (
        "3. a\n  3.i) b\n  3.ii) c\n4. d\n  4.i) e\n\nx\n\n- dot\n\nnone"
    )


def cell(*paragraphs):
    return f"<w:tc>{''.join(paragraphs)}</w:tc>"


def test_docx_tables_row_by_row(docx):
    inner = f"<w:tbl><w:tr>{cell(paragraph('in'))}{cell(paragraph('ner'))}</w:tr></w:tbl>"
    body = (
        f"<w:tbl><w:tr>{cell(paragraph('Name'))}{cell(paragraph('Year'))}</w:tr>"
        f"<w:tr>{cell(paragraph('Pequod'), paragraph('of Nantucket'))}"
        f"{cell(inner, paragraph(''))}</w:tr></w:tbl>"
    )
    assert text_of(docx(body)) == "Name | Year\nPequod of Nantucket | in | ner"


def test_docx_changes_fields_and_hidden_text(docx):
    body = (
        "<w:p><w:r><w:t>kept </w:t></w:r><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
        "<w:ins><w:r><w:t>inserted </w:t></w:r></w:ins><w:r><w:instrText>PAGE</w:instrText></w:r>"
        "<w:hyperlink><w:r><w:t>link</w:t></w:r></w:hyperlink><w:r><w:rPr><w:vanish/></w:rPr>"
        "<w:t>hidden</w:t></w:r><w:r><w:noBreakHyphen/><w:softHyphen/><w:t>x</w:t><w:br/>"
        "<w:t>y</w:t></w:r></w:p>"
    )
    assert text_of(docx(body)) == "kept inserted link-x\ny"


def test_docx_notes_and_comments_stand_below(docx):
    body = (
        '<w:p><w:r><w:t>Said</w:t><w:footnoteReference w:id="2"/><w:t> so.</w:t>'
        '<w:commentReference w:id="0"/></w:r></w:p>' + paragraph("next")
    )
    notes = f'<w:footnote w:id="2">{paragraph("The note.")}</w:footnote>'
    comments = f'<w:comment w:id="0" w:author="Ann">{paragraph("Sure?")}</w:comment>'
    assert text_of(docx(body, footnotes=notes, comments=comments)) == (
        "Said[1] so.\n\n[1] The note.\n\n[comment by Ann: Sure?]\n\nnext"
    )


def test_docx_text_boxes_once(docx):
    mc = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    box = f"<w:txbxContent>{paragraph('in the box')}</w:txbxContent>"
    body = (
        f'<w:p><w:r><mc:AlternateContent xmlns:mc="{mc}"><mc:Choice>{box}</mc:Choice>'
        f"<mc:Fallback>{box}</mc:Fallback></mc:AlternateContent><w:t>around</w:t></w:r></w:p>"
    )
    assert text_of(docx(body)) == "in the box\n\naround"


def test_docx_formulas(docx):
    m = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    run = "<m:r><m:t>{}</m:t></m:r>".format
    body = (
        f"<w:p><m:oMath {m}>{run('E=m')}<m:sSup><m:e>{run('c')}</m:e><m:sup>{run('2')}</m:sup>"
        "</m:sSup>"
        f"<m:f><m:num>{run('a+b')}</m:num><m:den>{run('12')}</m:den></m:f>"
        f"<m:nary><m:naryPr><m:chr m:val='∑'/></m:naryPr><m:e>{run('x')}</m:e></m:nary>"
        "</m:oMath></w:p>"
    )
    assert text_of(docx(body)) == "E=mc^2(a+b)/(12)∑x"


def test_docx_strict_form(tmp_path):
    path = make_docx(tmp_path / "a.docx", paragraph("strict text"))
    strict = '<w:document xmlns:w="http://purl.oclc.org/ooxml/wordprocessingml/main"><w:body>'
    make_zip(path, {
        "[Content_Types].xml": "<Types/>",
        "word/document.xml": f"{strict}{paragraph('strict text')}</w:body></w:document>",
    })  # fmt: skip
    assert text_of(read_document(str(path))) == "strict text"


ODT_STYLES = (
    '<style:style style:name="P1" style:family="paragraph" style:parent-style-name="Title"/>'
    '<style:style style:name="P2" style:family="paragraph" '
    'style:parent-style-name="Preformatted_20_Text"/>'
    '<text:list-style style:name="L1"><text:list-level-style-number style:num-format="1"/>'
    "<text:list-level-style-bullet/></text:list-style>"
)


def test_odt_structure(odt):
    body = (
        '<text:p text:style-name="P1">Book</text:p><text:h text:outline-level="1">One</text:h>'
        '<text:p>two<text:s text:c="2"/>three<text:tab/>four<text:line-break/>five '
        '<text:span>six</text:span> seven</text:p><text:h text:outline-level="2">Two</text:h>'
        '<text:list text:style-name="L1"><text:list-item><text:p>a</text:p><text:list>'
        "<text:list-item><text:p>b</text:p></text:list-item></text:list></text:list-item>"
        "<text:list-item>"
        "<text:p>c</text:p></text:list-item></text:list>"
    )
    document = odt(body, ODT_STYLES)
    assert outline(document) == [("Book", 1, 0), ("One", 1, 0), ("Two", 2, 1)]
    assert document.pages[0].text == "Book\n\nOne\n\ntwo three four\nfive six seven"
    assert document.pages[1].text == "Two\n\n1. a\n  - b\n2. c"


def test_odt_tables_notes_and_changes(odt):
    body = (
        "<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
        "<table:table><table:table-row><table:table-cell><text:p>A</text:p></table:table-cell>"
        '<table:table-cell table:number-columns-repeated="1000000000"/></table:table-row>'
        "<table:table-row><table:table-cell><text:p>1</text:p></table:table-cell><table:table-cell>"
        "<text:p>2</text:p></table:table-cell></table:table-row></table:table>"
        "<text:p>said<text:note><text:note-citation>4</text:note-citation><text:note-body>"
        "<text:p>The note.</text:p></text:note-body></text:note> so<office:annotation>"
        "<dc:creator>Ann</dc:creator><dc:date>2026</dc:date><text:p>Sure?</text:p>"
        "</office:annotation>.</text:p>"
    )
    text = text_of(odt(body))
    first, second = text.split("\n")[:2]
    assert first.startswith("A |") and len(first) < 400 and second == "1 | 2"
    assert text.endswith("said[4] so.\n\n[4] The note.\n\n[comment by Ann: Sure?]")


def test_odt_encrypted(tmp_path):
    path = make_zip(tmp_path / "a.odt", {
        "mimetype": "application/vnd.oasis.opendocument.text",
        "META-INF/manifest.xml": "<m><f><encryption-data/></f></m>",
        "content.xml": b"\x00\x01",
    })  # fmt: skip
    with pytest.raises(InputError, match="is encrypted"):
        read_document(str(path))


def test_pptx_slides_are_pages(tmp_path):
    table = (
        "<p:graphicFrame><a:tbl><a:tr><a:tc><a:txBody><a:p><a:r><a:t>Q1</a:t></a:r></a:p></a:txBody>"
        "</a:tc><a:tc><a:txBody><a:p><a:r><a:t>12</a:t></a:r></a:p></a:txBody></a:tc></a:tr></a:tbl>"
        "</p:graphicFrame>"
    )
    path = make_pptx(
        tmp_path / "a.pptx",
        [
            shape("A title", kind="ctrTitle") + shape("first", "second"),
            "",
            shape("Figures", kind="title") + table + shape("7", kind="sldNum"),
        ],
        notes={3: "to be said"},
    )
    document = read_document(str(path))
    assert (document.format, document.unit) == ("pptx", "page")
    assert [p.text for p in document.pages] == [
        "A title\n\nfirst\nsecond",
        "",
        "Figures\n\nQ1 | 12\n\nNotes: to be said",
    ]
    assert outline(document) == [("A title", 1, 0), ("Figures", 3, 0)]
    assert [p.number for p in read_document(str(path), pages="3").pages] == [3]


@pytest.mark.parametrize("make", [make_docx, make_odt])
def test_no_text_is_an_error(tmp_path, make):
    with pytest.raises(InputError, match="no text"):
        read_document(str(make(tmp_path / "a", "")))
