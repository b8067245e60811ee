"""EPUB books: order, contents, printed pages, protection, damage."""

import pytest
from document_files import make_epub, make_zip

from cca_cli.documents import read_document
from cca_cli.errors import InputError


@pytest.fixture
def read(tmp_path):
    def make(chapters, **parts):
        return read_document(str(make_epub(tmp_path / "book.epub", chapters, **parts)))

    return make


def outline(document):
    return [(e.title, e.page, e.level) for e in document.outline]


TWO = {
    "b.xhtml": "<h1>Loomings</h1><p>Call me Ishmael.</p>",
    "a.xhtml": "<h1>The Carpet-Bag</h1><p>I stuffed a shirt.</p><h2 id='s'>Later</h2><p>End.</p>",
}


def test_spine_order_and_headings(read):
    document = read(TWO)
    assert (document.format, document.unit) == ("epub", "section")
    assert [p.label for p in document.pages] == ["Loomings", "The Carpet-Bag", "Later"]
    assert document.pages[0].text == "Loomings\n\nCall me Ishmael."
    assert outline(document) == [("Loomings", 1, 0), ("The Carpet-Bag", 2, 0), ("Later", 3, 1)]


def test_contents_of_epub_3(read):
    nav = (
        "<nav epub:type='landmarks'><ol><li><a href='b.xhtml'>Start</a></ol></nav>"
        "<nav epub:type='toc'><ol><li><a href='b.xhtml'>Chapter <b>1</b></a><ol>"
        "<li><a href='a.xhtml#s'>Part</a></ol></li><li><a href='none.xhtml'>Gone</a></ol></nav>"
    )
    assert outline(read(TWO, nav=nav)) == [("Chapter 1", 1, 0), ("Part", 3, 1)]


def test_contents_of_epub_2(read):
    def point(title, target, inner=""):
        return (
            f"<navPoint><navLabel><text>{title}</text></navLabel><content src='{target}'/>"
            f"{inner}</navPoint>"
        )

    ncx = point("One", "b.xhtml", point("Part", "a.xhtml#s")) + point("Two", "a.xhtml")
    assert outline(read(TWO, ncx=ncx)) == [("One", 1, 0), ("Part", 3, 1), ("Two", 2, 0)]


def test_contents_name_chapters_without_headings(read):
    chapters = {f"c{i}.xhtml": f"<p>{f'text {i} ' * 60}</p>" for i in range(3)}
    links = "".join(f"<li><a href='c{i}.xhtml'>Chapter {i}</a></li>" for i in range(3))
    document = read(chapters, nav=f"<nav epub:type='toc'><ol>{links}</ol></nav>")
    assert [p.label for p in document.pages] == ["Chapter 0", "Chapter 1", "Chapter 2"]
    assert document.pages[1].text.startswith("text 1 text 1")


def test_printed_pages(read):
    mark = "<span epub:type='pagebreak' title='{}'/>"
    body = "".join(f"{mark.format(label)}<p>page {label}</p>" for label in ("ix", "x", "1", "2"))
    document = read({"a.xhtml": f"<p>cover</p>{body}"})
    assert document.unit == "page"
    assert [p.label for p in document.pages] == [None, "ix", "x", "1", "2"]
    assert document.pages[3].text == "page 1"
    part = read_document(document.path, pages="label:ix-1")
    assert [p.number for p in part.pages] == [2, 3, 4]


def test_a_page_break_within_a_paragraph(read):
    body = "<p>one</p>" + "".join(
        f"<p>before {i}<a role='doc-pagebreak' aria-label='{i}'></a>after {i}</p>" for i in "123"
    )
    document = read({"a.xhtml": body})
    assert [p.text for p in document.pages[1:3]] == ["after 1\n\nbefore 2", "after 2\n\nbefore 3"]


def test_page_list_of_the_contents(read):
    body = "".join(f"<p id='p{i}'>page {i}</p>" for i in range(5))
    links = "".join(f"<li><a href='a.xhtml#p{i}'>{i + 7}</a></li>" for i in range(5))
    document = read({"a.xhtml": body}, nav=f"<nav epub:type='page-list'><ol>{links}</ol></nav>")
    assert [p.label for p in document.pages] == ["7", "8", "9", "10", "11"]
    assert document.pages[4].text == "page 4"


def test_fixed_layout_is_a_page_each(read):
    meta = "<meta property='rendition:layout'>pre-paginated</meta>"
    pages = {"1.xhtml": "<p>one</p>", "2.xhtml": "<img src='a.png'/>", "3.xhtml": "<p>three</p>"}
    document = read(pages, metadata=meta)
    assert [p.text for p in document.pages] == ["one", "", "three"]
    assert document.unit == "page"


def test_pictures_only_are_named(read):
    document = read({"1.xhtml": "<p>one</p>", "2.xhtml": "<img src='a.png'/>"})
    assert document.warnings == (
        "1 of 2 parts of the book hold pictures only and were not read: 2",
    )


def test_missing_chapters_are_named(tmp_path):
    path = make_epub(tmp_path / "a.epub", {"a.xhtml": "<p>text</p>"})
    opf = (
        "<package><manifest><item id='a' href='a.xhtml' media-type='application/xhtml+xml'/>"
        "<item id='b' href='b.xhtml' media-type='application/xhtml+xml'/></manifest>"
        "<spine><itemref idref='b'/><itemref idref='a'/></spine></package>"
    )
    make_zip(path, {
        "mimetype": "application/epub+zip",
        "OPS/book.opf": opf,
        "OPS/a.xhtml": "<p>text</p>",
    })  # fmt: skip
    document = read_document(str(path))
    assert document.pages[0].text == "text"
    assert "1 chapters are missing" in document.warnings[0]


@pytest.mark.parametrize(
    ("uri", "fails"), [("OPS/a.xhtml", True), ("OPS/fonts/a.otf", False)], ids=["text", "fonts"]
)
def test_protection(tmp_path, uri, fails):
    encryption = (
        "<encryption><EncryptedData><CipherData>"
        f"<CipherReference URI='{uri}'/></CipherData></EncryptedData></encryption>"
    )
    path = make_epub(
        tmp_path / "a.epub",
        {"a.xhtml": "<p>text</p>"},
        extra={"META-INF/encryption.xml": encryption},
    )
    if fails:
        with pytest.raises(InputError, match="protected against copying"):
            read_document(str(path))
    else:
        assert read_document(str(path)).pages[0].text == "text"
