"""HTML pages: what a browser shows, with its structure; pages made to choke a parser."""

import time

import pytest

from cca_cli.documents import read_document
from cca_cli.documents.html_guard import too_costly
from cca_cli.errors import InputError


@pytest.fixture
def read(tmp_path):
    def make(body, **options):
        path = tmp_path / "page.html"
        page = body if isinstance(body, bytes) else f"<!DOCTYPE html>{body}".encode()
        path.write_bytes(page)
        return read_document(str(path), **options)

    return make


def text_of(document):
    return "\n\n".join(page.text for page in document.pages)


def test_headings_are_sections_and_outline(read):
    document = read("<h1>Book</h1><h2>One</h2><p>first</p><h2>Two</h2><p>second</p><h3>A</h3>x")
    assert [(e.title, e.page, e.level) for e in document.outline] == [
        ("Book", 1, 0), ("One", 1, 1), ("Two", 2, 1), ("A", 3, 2),
    ]  # fmt: skip
    assert [p.label for p in document.pages] == ["One", "Two", "A"]
    assert document.pages[0].text == "Book\n\nOne\n\nfirst"
    assert (document.format, document.unit) == ("html", "section")
    part = read("<h1>One</h1>1<h1>Two</h1>2<h1>Three</h1>3", pages="2-3")
    assert [p.number for p in part.pages] == [2, 3]


def test_blanks_and_line_breaks(read):
    assert text_of(read("<p>one\n  two<br>three   <b>four</b>&nbsp;five</p><div>six</div>")) == (
        "one two\nthree four five\n\nsix"
    )
    assert text_of(read("<pre>a\n  b\n\n   c</pre>")) == "a\n  b\n\n   c"
    assert text_of(read("<div>a line</div><div>of verse</div><p>prose</p>")) == (
        "a line\nof verse\n\nprose"
    )
    assert text_of(read("hy&shy;phen co\u200boperate ﬁne")) == "hyphen cooperate fine"


def test_lists(read):
    body = (
        "<p>before</p><ol start=3><li>three<ul><li>a<li>b</ul><li><p>four</p><p>more</p></ol>after"
    )
    assert text_of(read(body)) == ("before\n\n3. three\n  - a\n  - b\n4. four\n   more\n\nafter")


def test_tables_row_by_row(read):
    body = (
        "<table><caption>Ships</caption><tr><th>Name<th>Year<th>Note</tr>"
        "<tr><td rowspan=2>Pequod<td>1851<td>lost <ul><li>at sea</ul></tr><tr><td>1852<td></tr>"
        "<tr><td>Rachel<td colspan=2>1851</tr></table>"
    )
    assert text_of(read(body)) == (
        "Ships\n\nName | Year | Note\nPequod | 1851 | lost - at sea\nPequod | 1852 |\nRachel | 1851"
    )


def test_tables_that_arrange_a_page(read):
    long = "word " * 300
    assert " | " not in text_of(read(f"<table><tr><td>{long}<td>menu</table>"))
    nested = "<table><tr><td><table><tr><td>a<td>b</table><td>side</table>"
    assert text_of(read(nested)) == "a | b\n\nside"


def test_what_is_not_shown_is_not_read(read):
    body = (
        "<script>var a</script><style>p {}</style><!-- c --><template>t</template>"
        "<div hidden>h</div><p style='display: none'>d</p><noscript>n</noscript><button>b</button>"
        "<span aria-hidden=true>icon</span><div class='x'>shown<div hidden>no</div> too</div>"
    )
    assert text_of(read(body)) == "shown too"


def test_inline_signs(read):
    assert text_of(read("10<sup>3</sup> m<sup>-1</sup>, 1<sup>st</sup>, H<sub>2</sub>O")) == (
        "10³ m⁻¹, 1st, H2O"
    )
    assert text_of(read("said<sup><a href=#n>12</a></sup> and<sup>[<a href=#n>3</a>]</sup>")) == (
        "said[12] and[3]"
    )
    assert text_of(read("<ruby>智<rp>（</rp><rt>ち</rt><rp>）</rp></ruby>に")) == "智(ち)に"
    assert text_of(
        read("<img alt='A map of Nantucket'> <img alt='cover.jpg'><img alt='C'>all")
    ) == ("[image: A map of Nantucket] Call")
    assert text_of(read("<math alttext='x^2'><mi>x</mi></math> <math><mi>y</mi></math>")) == "x^2 y"


def test_menus_around_the_main_part_are_left_out_and_said(read):
    body = "<nav>Home About</nav><main><h1>One</h1><p>the text itself</p></main><footer>©</footer>"
    document = read(body)
    assert text_of(document) == "One\n\nthe text itself"
    assert "around the page's main part" in document.warnings[0]
    # A main part that is not the page's text is not believed.
    aside = read(f"<main>x</main><p>{'all the text ' * 20}</p>")
    assert "all the text" in text_of(aside) and not aside.warnings


def test_the_title_stands_for_a_heading(read):
    document = read("<title>A Title</title><p>text</p>")
    assert document.pages[0].text == "A Title\n\ntext"
    assert document.outline[0].title == "A Title"


@pytest.mark.parametrize(
    ("page", "codec"),
    [
        ("<html><p>naïve café</p>".encode(), "utf-8"),
        ("<html><meta charset=windows-1252><p>“naïve”".encode("cp1252"), "cp1252"),
        ("<html><meta charset=iso-8859-1><p>“naïve”".encode("cp1252"), "cp1252"),
        ("<html><meta charset='koi8-r'><p>Привет".encode("koi8-r"), "koi8-r"),
        ("<?xml version='1.0' encoding='euc-jp'?><html><p>日本語".encode("euc-jp"), "euc_jp"),
        ("<html><meta charset=latin1><p>naïve — “so”".encode(), "utf-8"),
        ("<html><p>naïve — “so”".encode("utf-16"), "utf-16"),
    ],
)  # fmt: skip
def test_encodings(read, page, codec):
    document = read(page)
    assert codec in document.reader
    said = "".join(p.text for p in document.pages)
    assert any(word in said for word in ("naïve", "Привет", "日本語")) and "\ufffd" not in said


def test_an_encoding_that_is_none_is_not_believed(read):
    document = read(b"<html><meta charset=hex><p>caf\xe9 cr\xe8me br\xfbl\xe9e</p>")
    assert "café crème" in text_of(document)


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 200_000,
        "<div></x>" * 50_000,
        "".join(f"<b id={i}>" for i in range(3000)) + "<p>" * 3000,
        "<span>" * 50_000 + "text",
    ],
    ids=["deep", "deep with stray ends", "formatting", "inline"],
)
def test_pages_that_would_choke_the_parser_are_refused(read, page):
    started = time.monotonic()
    with pytest.raises(InputError, match="cannot be read as HTML"):
        read(page)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "page",
    [
        "<p>text<br>" * 20_000,
        "<ul>" + "<li>item" * 20_000,
        "<script>" + "<div>" * 10_000 + "</script>text",
        "<!--" + "<div>" * 10_000 + "-->text",
        "<div><b>text</b></div>" * 20_000,
    ],
)
def test_large_honest_pages_are_not(page):
    assert too_costly(page) is None


def test_nesting_within_the_bound_is_walked(read):
    document = read("<div>" * 3000 + "deep inside" + "</div>" * 3000)
    assert text_of(document) == "deep inside"
