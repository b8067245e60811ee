"""Plain text: encodings, sections, form feeds, chapters, characters."""

import tracemalloc
from pathlib import Path

import pytest

from cca_cli.documents import read_document
from cca_cli.documents.chapters import find_headings
from cca_cli.documents.normalise import clean, fold, unreadable_share
from cca_cli.documents.sections import LIMIT, cut
from cca_cli.errors import InputError, UsageError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "documents" / "text"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/documents is absent")


def read(tmp_path, content, name="file.txt", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_document(str(path), **options)


def words(document):
    return " ".join(" ".join(page.text for page in document.pages).split())


@needs_data
@pytest.mark.parametrize(
    ("name", "phrase", "guessed"),
    [
        ("apology-utf16le.txt", "How you, O Athenians, have been affected", False),
        ("treasure-island-crlf-utf8bom.txt", "The Hispaniola lay some way out", False),
        ("udhr-German_Deutsch-Latin1.txt", "Gemeinschaft der Menschen die Grundlage", True),
        ("udhr-French_Francais-Latin1.txt", "la liberté, de la justice et de la paix", True),
        ("udhr-Greek_Ellinika-Greek.txt", "αναπαλλοτρίωτων δικαιωμάτων", True),
        ("udhr-Japanese_Nihongo-SJIS.txt", "法の支配によって人権を保護する", True),
        ("udhr-Polish-Latin2.txt", "niewątpliwie jedno z największych", True),
        ("udhr-Russian-Cyrillic.txt", "членам человеческой семьи", True),
        ("udhr-Turkish_Turkce-Turkish.txt", "İnsan haklarının tanınmaması", True),
        ("udhr-Chinese_Mandarin-GB2312.txt", "世界人权宣言 联合国大会一九四八年", True),
    ],
)
def test_real_encodings(name, phrase, guessed):
    document = read_document(str(DATA / name))
    assert phrase in words(document)
    assert any("guess" in w for w in document.warnings) == guessed
    assert "\r" not in "".join(page.text for page in document.pages)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_unicode_with_and_without_mark(tmp_path, codec):
    text = "A café on the quay, with a long enough line of plain English around it."
    assert words(read(tmp_path, text.encode(codec))) == text


def test_western_text_with_curly_quotes_is_cp1252(tmp_path):
    text = "He said \u201cnothing at all\u201d to the others \u2013 and left. " * 40
    document = read(tmp_path, text.encode("cp1252"))
    assert words(document) == text.strip()
    assert "cp1252" in document.reader
    assert any("cp1252" in w for w in document.warnings)


def test_short_western_text_is_cp1252(tmp_path):
    text = "naïve résumé, £5 and 20°C"
    assert words(read(tmp_path, text.encode("cp1252"))) == text


def test_named_encoding(tmp_path):
    data = "Zażółć gęślą jaźń".encode("iso8859-2")
    document = read(tmp_path, data, encoding="latin2")
    assert words(document) == "Zażółć gęślą jaźń"
    assert not document.warnings
    with pytest.raises(InputError, match="not valid utf-8 at byte 2"):
        read(tmp_path, data, encoding="utf-8")
    with pytest.raises(UsageError, match="no such text encoding"):
        read(tmp_path, data, encoding="klingon")


def test_a_few_broken_bytes_do_not_spoil_utf8(tmp_path):
    data = "Ünïcödé hält größere Stücke zusammen. ".encode() * 20 + b"\xff\xfe end"
    document = read(tmp_path, data)
    assert "Ünïcödé hält größere Stücke" in words(document)
    assert "replaced" in document.warnings[0]


def test_sections_keep_every_word_and_say_their_lines(tmp_path):
    paragraphs = [f"Paragraph {i} " + "word " * 60 for i in range(60)]
    text = "\r\n\r\n".join(paragraphs)
    document = read(tmp_path, text)
    assert document.unit == "section"
    assert words(document) == " ".join(text.split())
    lines = text.split("\r\n")
    for page in document.pages:
        assert len(page.text) <= LIMIT
        first, last = map(int, page.label.removeprefix("lines ").split("-"))
        assert page.text.split("\n")[0] == lines[first - 1]
        assert page.text.split("\n")[-1] == lines[last - 1]
    assert min(len(p.text) for p in document.pages[:-1]) > 1500


def test_oversize_paragraphs_and_lines_are_cut(tmp_path):
    wall = "This is one sentence of a wall of text. " * 400
    block = "\n".join(["a line of some length " * 4] * 100)
    document = read(tmp_path, f"{wall}\n{block}\n\n{'x' * 7000}")
    assert all(0 < len(p.text) <= LIMIT for p in document.pages)
    joined = "".join("".join(p.text for p in document.pages).split())
    assert joined == "".join(f"{wall}{block}{'x' * 7000}".split())
    assert document.pages[0].text.endswith("wall of text.")
    assert document.pages[0].label == "line 1"


def test_breaks_start_sections():
    lines = ["word " * 100, "", "CHAPTER II", "", "more " * 10]
    assert [s.first for s in cut(lines, breaks={2})] == [1, 3]
    assert [s.first for s in cut(lines)] == [1]


def test_form_feeds_are_pages(tmp_path):
    document = read(tmp_path, "first page\fsecond\n\f\ffourth\f")
    assert document.unit == "page"
    assert [p.text for p in document.pages] == ["first page", "second", "", "fourth"]
    part = read(tmp_path, "first page\fsecond\n\f\ffourth\f", pages="2,4")
    assert [(p.number, p.text) for p in part.pages] == [(2, "second"), (4, "fourth")]


def test_one_form_feed_in_a_book_is_no_page(tmp_path):
    document = read(tmp_path, "word " * 10_000 + "\f" + "word " * 10_000)
    assert document.unit == "section"


@needs_data
def test_chapters_of_a_book():
    document = read_document(str(DATA / "treasure-island-crlf-utf8bom.txt"))
    chapters = [e for e in document.outline if e.title.startswith("CHAPTER")]
    assert len(document.outline) == 40 and len(chapters) == 34
    assert {e.level for e in chapters} == {1}
    by_number = {p.number: p for p in document.pages}
    assert chapters[2].title == "CHAPTER 3 - The Black Spot"
    assert by_number[chapters[2].page].text.startswith("CHAPTER 3 - The Black Spot")


def test_contents_list_is_no_outline():
    contents = "CONTENTS\n\nBOOK I\n\nChapter 1\n\nChapter 2\n\nBOOK II\n\nChapter 1"
    body = "It was a dark and stormy night; the rain fell in torrents, and it did not stop.\n\n"
    text = (
        f"{contents}\n\nBOOK I\n\nChapter 1\nThe Beginning\n\n{body}CHAPTER II.\n\n{body}"
        f"BOOK THE SECOND\n\nChapter One\n\n{body}PREFACE\n\n{body}"
    )
    found = [(h.title, h.level) for h in find_headings(text.split("\n"))]
    assert found[-6:] == [
        ("BOOK I", 0),
        ("Chapter 1. The Beginning", 1),
        ("CHAPTER II.", 1),
        ("BOOK THE SECOND", 0),
        ("Chapter One", 1),
        ("PREFACE", 1),
    ]
    assert len(found) == 6


def test_old_headings_sum_up_the_chapter():
    summary = "How the second of the Romans came to Britain, and what he did to the islands there. "
    text = f"CHAPTER III. {summary * 2}\n\n{summary}\n\nChapter 4. {summary * 2}\n\nBOOK II\n"
    assert [h.line for h in find_headings(text.split("\n"))] == [0, 6]


def test_sentences_are_no_headings():
    text = (
        "Part of the trouble\n\nBook a table\n\nchapter one\n\nChapter 3 was read\naloud to us all."
    )
    assert find_headings(text.split("\n")) == []


def test_characters():
    assert clean("a\r\nb\rc\x85d\u2028e") == "a\nb\nc\nd\ne"
    assert clean("a\x00b\x1bc\u200bd\u202ee\ufefff\U000e0041g") == "abcdefg"
    assert clean("\x1b[32mINFO\x1b[0;1m ok\x1b]0;title\x07\x1b[K done\x1b(B\x1b7") == "INFO ok done"
    assert clean("\x1b]8;;https://a.b\x1b\\link\x1b]8;;\x1b\\") == "link"
    # What is no whole sequence, or no sequence in this encoding, is text.
    assert clean("\x1b]0;never\nends \x1b[ \x1b[12") == "]0;never\nends [ [12"
    assert clean("say \x9dhello\x9b") == "say hello"
    assert clean("\ud800x").encode() == "\ufffdx".encode()
    assert clean("e\u0301") == "é"
    assert fold("oﬃce ﬁne 𝑥 Ａ１ Ⅳ ⼈ ﻼ") == "office fine x A1 IV 人 لا"
    # Compatibility forms that carry meaning, and Chinese punctuation, stay.
    assert fold("x² ½ ™ 中，文。") == "x² ½ ™ 中，文。"
    assert unreadable_share(["ab\ue000 \ufffd"]) == 0.5
    assert unreadable_share([]) == 0.0


@pytest.mark.parametrize("filler", ["\n", "\f", " \n", "\n\f"], ids=repr)
def test_millions_of_blank_lines_cost_little(tmp_path, filler):
    text = "A line of text.\n\n" * 200
    path = tmp_path / "blank.txt"
    path.write_bytes((text + filler * 1_000_000 + text).encode())
    tracemalloc.start()
    try:
        document = read_document(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    words = " ".join(page.text for page in document.pages).split()
    assert words == (text + text).split()
    assert len(document.pages) < 10 and peak < 60 << 20


def test_a_gap_of_any_length_is_one_gap(tmp_path):
    paragraph = "It was a dark night, and the keeper lit the lamp. " * 8
    found = []
    for blank in (1, 2, 50):
        path = tmp_path / "gaps.txt"
        path.write_text(("\n" * (blank + 1)).join([paragraph] * 40))
        found.append([len(page.text.split()) for page in read_document(str(path)).pages])
    assert found[0] == found[1], "an empty line more does not move the cuts"
    assert sum(found[2]) == sum(found[0])
