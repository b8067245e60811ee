"""PDF files: text by both backends, labels, outline, passwords, scans, damage."""

import io
import logging
import sys
import time
from pathlib import Path

import pypdf
import pytest
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from cca_cli.documents import pdf, pdfium, read_document
from cca_cli.documents.pdf_layout import page_text, tidy_pages
from cca_cli.documents.time_limit import OutOfTime, time_limit
from cca_cli.documents.traced import Traced
from cca_cli.errors import InputError, UsageError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "documents" / "pdf"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/documents is absent")
BACKENDS = ["pypdf", "pdfium"]
SECRETS = {"libreoffice-writer-password.pdf": "openpassword", "r4-user-password.pdf": "asdfzxcv"}


@pytest.fixture(autouse=True)
def _pdfium_is_there(request):
    if "pdfium" in request.node.name and not pdfium.installed():
        pytest.skip("pypdfium2 (extra `fast`) is not installed")


def make_pdf(path, pages, *, images=()):
    """Write a PDF whose page i shows the lines of pages[i], and an image if i is in images."""
    canvas = Canvas(str(path), pagesize=(400, 600))
    pixel = None
    for index, lines in enumerate(pages):
        if index in images:
            if pixel is None:
                from PIL import Image

                pixel = ImageReader(Image.new("RGB", (8, 8), "grey"))
            canvas.drawImage(pixel, 50, 50, 300, 300)
        for row, line in enumerate(lines):
            canvas.drawString(40, 560 - 14 * row, line)
        canvas.showPage()
    canvas.save()
    return path


def cleaned(raw):
    return page_text(raw).text


def tidied(texts, numbers, labels):
    pages = [Traced.of(text, trace=False) for text in texts]
    return [page.text for page in tidy_pages(pages, numbers, labels)]


def refused(path, **options):
    with pytest.raises(InputError) as caught:
        read_document(str(path), **options)
    assert caught.value.code == 4 and caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


# Name, pages, outline entries, first and last label, page and phrase for either backend.
REAL = [
    ("2305.03393v1-pg9.pdf", 1, 1, None, None, 1, "Hyper Parameter Optimization"),
    ("GeoTopo-komprimiert.pdf", 117, 35, "i", "114", 20, "Die offenen Mengen"),
    ("Seige_of_Vicksburg_Sample_OCR.pdf", 6, 0, None, None, 2, "These shells are visitors"),
    ("TACL-latest.pdf", 17, 25, "1", "17", 1, "in terms of debuggability, extensibility"),
    ("VA_Form_10-10068.pdf", 3, 0, None, None, 1, "Camp Lejeune Family Member Program"),
    ("amt_handbook_sample.pdf", 1, 0, None, None, 1, "The two general types of self-locking"),
    ("da2020-lecture-02.pdf", 25, 0, None, None, 3, "never minimum"),
    ("encrypted/r3-empty-password.pdf", 1, 0, None, None, 1, "pdf encryption test"),
    ("encrypted/r5-owner-password.pdf", 1, 0, None, None, 1, "pdf encryption test"),
    ("french_diacritics.pdf", 1, 0, None, None, 1, "ç Ç é É è È ê"),
    ("gas-cost-estimator-report.pdf", 12, 0, None, None, 2, "Revm, version 18.0.0"),
    ("google-doc-document.pdf", 1, 0, None, None, 1, "Explicit is better than implicit."),
    ("mistitled_outlines_example.pdf", 4, 27, None, None, 1, "Contents 1 Foo 2"),
    ("multi_page.pdf", 5, 0, None, None, 1, "The Evolution of the Word Processor"),
    ("multicolumn.pdf", 3, 0, None, None, 1, "consectetuer adipiscing elit"),
    ("multilang.pdf", 1, 0, None, None, 1, "Привет, мир"),
    ("outlines-with-invalid-destinations.pdf", 4, 3, None, None, 1, "Contents 1 Foo 2"),
    ("pdflatex-outline.pdf", 4, 9, None, None, 1, "Contents 1 Foo 2"),
    ("REPAIR-2022-INV-001_multipage.pdf", 3, 0, None, None, 1, "VIN 1C4RJFBG2NC123456"),
    ("side-by-side-subfig.pdf", 1, 0, None, None, 1, "South American coati"),
    ("WelcomeVA_Guide_print_version_final.pdf", 24, 0, None, None, 5, "No two Veterans are the"),
]


@needs_data
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", REAL, ids=[case[0] for case in REAL])
def test_real_files(case, backend, capfd):
    name, count, entries, first, last, page, phrase = case
    document = read_document(str(DATA / name), backend=backend)
    assert [p.number for p in document.pages] == list(range(1, count + 1))
    assert len(document.outline) == entries
    assert (document.pages[0].label, document.pages[-1].label) == (first, last)
    assert phrase in " ".join(document.pages[page - 1].text.split())
    assert ("pypdfium2" if backend == "pdfium" else "pypdf ") in document.reader
    assert len(document.warnings) <= 1
    text = "".join(p.text for p in document.pages)
    assert not any(c < " " and c not in "\n\t" for c in text)
    assert capfd.readouterr() == ("", "")


@needs_data
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_book(backend):
    path = str(DATA / "treatise-of-human-nature-typeset.pdf")
    started = time.monotonic()
    document = read_document(path, backend=backend)
    assert time.monotonic() - started < 60
    assert len(document.pages) == 431 and len(document.outline) == 12
    assert document.pages[199].text.startswith("immediately find, that taking these suppositions")
    # The printed number at the foot is gone.
    assert document.pages[199].text.endswith("so that none of them coued")
    part = read_document(path, backend=backend, pages="200-210")
    assert [p.number for p in part.pages] == list(range(200, 211))
    assert part.pages[0] == document.pages[199]


@needs_data
def test_backend_auto(monkeypatch):
    short, long = str(DATA / "pdflatex-outline.pdf"), str(DATA / "GeoTopo-komprimiert.pdf")
    assert read_document(short).reader.startswith("pypdf ")
    if pdfium.installed():
        # One page of a long document is read as the whole of it would be.
        assert read_document(long, pages="5").reader.startswith("pypdfium2 ")
    monkeypatch.setattr(pdfium, "installed", lambda: False)
    assert read_document(long, pages="5").reader.startswith("pypdf ")
    with pytest.raises(UsageError, match="not installed"):
        read_document(short, backend="pdfium")


@needs_data
def test_selected_by_printed_label():
    document = read_document(str(DATA / "GeoTopo-komprimiert.pdf"), pages="label:ii-1")
    assert [(p.number, p.label) for p in document.pages] == [(2, "ii"), (3, "iii"), (4, "1")]
    assert {e.page for e in document.outline} <= {2, 3, 4}


@needs_data
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(SECRETS))
def test_passwords(name, backend):
    path = next(DATA.rglob(name))
    asked = []
    document = read_document(
        str(path), backend=backend, password=lambda: asked.append(1) or SECRETS[name]
    )
    assert asked == [1] and document.pages[0].text
    assert "wrong" in refused(path, password=lambda: "no").message
    for nobody in (None, lambda: None):
        error = refused(path, password=nobody)
        assert "needs a password" in error.message
        assert error.hint == "--password-file FILE"


def test_no_password_is_asked_for_without_need(tmp_path):
    path = make_pdf(tmp_path / "a.pdf", [["some text that is long enough"]])
    read_document(str(path), password=lambda: pytest.fail("asked"))


@needs_data
@pytest.mark.parametrize(
    "name",
    ["ocr_test.pdf", "ocr_test_rotated_90.pdf", "pdf_scanned_meeting_minutes.pdf", "scan-bad.pdf"],
)
def test_scans_are_refused(name):
    error = refused(DATA / name)
    assert "page 1 has no text layer (scanned images)" in error.message
    assert error.hint.startswith("ocrmypdf ")


TEXT = ["This page has a text layer,", "of more than twenty characters."]


def test_scanned_pages_among_others(tmp_path):
    few = make_pdf(tmp_path / "few.pdf", [TEXT] * 9 + [[]], images={9})
    assert read_document(str(few)).warnings == ()
    many = make_pdf(tmp_path / "many.pdf", [TEXT, [], [], TEXT, []], images={1, 2, 4})
    document = read_document(str(many))
    assert document.pages[1].text == ""
    assert len(document.warnings) == 1 and "2-3, 5" in document.warnings[0]
    assert "pages 2-3" in refused(many, pages="2-3").message


def test_blank_pages_are_no_scans(tmp_path):
    half = make_pdf(tmp_path / "half.pdf", [TEXT, [], [], []])
    assert read_document(str(half)).warnings == ()
    assert "no text layer" in refused(make_pdf(tmp_path / "none.pdf", [[], []])).message


def test_labels_and_outline(tmp_path):
    writer = pypdf.PdfWriter(str(make_pdf(tmp_path / "plain.pdf", [TEXT] * 5)))
    writer.set_page_label(0, 1, style="/r")
    writer.set_page_label(2, 4, style="/D")
    parent = writer.add_outline_item(title="  Part\none ", page_number=1)
    writer.add_outline_item(title="Chapter", page_number=3, parent=parent)
    writer.add_outline_item(title="", page_number=4)
    path = tmp_path / "labelled.pdf"
    writer.write(path)
    document = read_document(str(path))
    assert [p.label for p in document.pages] == ["i", "ii", "1", "2", "3"]
    found = [(e.title, e.page, e.level) for e in document.outline]
    assert found == [("Part one", 2, 0), ("Chapter", 4, 1)]
    part = read_document(str(path), pages="label:1-2")
    assert [(p.number, p.label) for p in part.pages] == [(3, "1"), (4, "2")]


def test_through_standard_input(tmp_path, monkeypatch):
    path = make_pdf(tmp_path / "a.pdf", [TEXT])
    for backend in BACKENDS if pdfium.installed() else ["pypdf"]:
        stream = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
        monkeypatch.setattr(sys, "stdin", stream)
        document = read_document("-", backend=backend)
        assert (document.name, document.pages[0].text) == ("stdin", "\n".join(TEXT))


@pytest.mark.parametrize("keep", [9, 200, 0.5])
def test_truncated_files(tmp_path, keep):
    data = make_pdf(tmp_path / "a.pdf", [TEXT] * 3).read_bytes()
    path = tmp_path / "cut.pdf"
    path.write_bytes(data[: keep if keep > 1 else int(len(data) * keep)])
    # pypdf may save a page or two of it; then there must be a warning.
    try:
        assert read_document(str(path)).warnings
    except InputError as error:
        assert error.code == 4 and "PDF" in error.message


def test_garbage_after_the_header(tmp_path):
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 40)
    assert "damaged PDF" in refused(path).message


def test_one_bad_page_does_not_kill_the_document(tmp_path, monkeypatch):
    path = make_pdf(tmp_path / "a.pdf", [TEXT] * 3)
    healthy = pypdf.PageObject.extract_text

    def extract_text(self, *args, **kwargs):
        if self.page_number == 1:
            raise RecursionError("too deep")
        return healthy(self, *args, **kwargs)

    monkeypatch.setattr(pypdf.PageObject, "extract_text", extract_text)
    document = read_document(str(path))
    assert [bool(p.text) for p in document.pages] == [True, False, True]
    assert "page 2 could not be read" in document.warnings[0]
    assert "no page can be read (too deep)" in refused(path, pages="2").message


def test_pages_that_take_for_ever(tmp_path, monkeypatch):
    path = make_pdf(tmp_path / "a.pdf", [TEXT] * 5)
    healthy = pypdf.PageObject.extract_text
    slow = {1}

    def extract_text(self, *args, **kwargs):
        while self.page_number in slow:
            try:
                time.sleep(0.01)
            except Exception:
                continue
        return healthy(self, *args, **kwargs)

    monkeypatch.setattr(pypdf.PageObject, "extract_text", extract_text)
    monkeypatch.setattr(pdf, "PAGE_SECONDS", 0.1)
    assert "page 2 could not be read" in read_document(str(path)).warnings[0]
    slow |= {2, 3}
    assert "the last was page 4" in refused(path).message


def test_time_limit_leaves_no_alarm():
    with pytest.raises(OutOfTime), time_limit(0.05):
        time.sleep(1)
    with time_limit(0.05):
        pass
    time.sleep(0.1)


def test_log_of_pypdf_is_one_warning(tmp_path, monkeypatch, capfd):
    path = make_pdf(tmp_path / "a.pdf", [TEXT] * 3)
    healthy = pypdf.PageObject.extract_text
    logger = logging.getLogger("pypdf._page")

    def extract_text(self, *args, **kwargs):
        for number in range(5):
            logger.warning("fault %d at %d", number, self.page_number)
        logger.warning("other fault")
        return healthy(self, *args, **kwargs)

    monkeypatch.setattr(pypdf.PageObject, "extract_text", extract_text)
    (warning,) = read_document(str(path)).warnings
    assert "fault 0 at 0, and 1 other" in warning
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("pypdf").propagate


def trap_pdfium(tmp_path, monkeypatch, pages, deed):
    """Make the worker do something bad on reaching some pages."""
    source = pdfium.WORKER.read_text()
    at = "            page = document[number - 1]\n"
    assert at in source
    trap = f"            if number in {pages}:\n                import os, time; {deed}\n"
    worker = tmp_path / "worker.py"
    worker.write_text(source.replace(at, trap + at))
    monkeypatch.setattr(pdfium, "WORKER", worker)
    monkeypatch.setattr(pdfium, "PAGE_SECONDS", 1.0)


@pytest.mark.parametrize("deed", ["os._exit(3)", "time.sleep(60)"])
def test_pdfium_that_crashes_or_hangs(tmp_path, monkeypatch, deed):
    path = make_pdf(tmp_path / "a.pdf", [TEXT] * 4)
    trap_pdfium(tmp_path, monkeypatch, [2], deed)
    document = read_document(str(path), backend="pdfium")
    assert [bool(p.text) for p in document.pages] == [True, False, True, True]
    assert "page 2 could not be read" in document.warnings[0]


def test_pdfium_that_crashes_again_and_again(tmp_path, monkeypatch):
    path = make_pdf(tmp_path / "a.pdf", [TEXT] * 6)
    trap_pdfium(tmp_path, monkeypatch, [2, 3, 5], "os._exit(3)")
    assert "broke down" in refused(path, backend="pdfium").message
    monkeypatch.setattr(pdf, "PDFIUM_FROM_PAGES", 5)
    document = read_document(str(path))
    assert document.reader.startswith("pypdf ") and all(p.text for p in document.pages)
    assert "read with pypdf" in document.warnings[0]


@needs_data
def test_unreadable_glyphs_are_reported():
    document = read_document(str(DATA / "vertical.pdf"), backend="pypdf")
    assert "stand for no known letter" in document.warnings[0]


def test_characters_of_a_page():
    assert cleaned("ﬁne  text \r\n\r\n\r\n\r\n  end\x00\u00a0") == "fine text\n\nend"
    assert cleaned("debuggabil\x02ity") == "debuggabil-\nity"
    assert cleaned("well\u00adknown") == "well-known"
    red = page_text("a \x1b[31mred\x1b[0m b", trace=True)
    assert red.text == "a red b" and red.spans() == [(0, 2, 0), (2, 5, 7), (5, 7, 14)]


def test_hyphens_at_line_ends():
    def join(text):
        return tidied([text], [1], {1: None})[0]

    assert join("an exam-\nple, of it") == "an example,\nof it"
    assert join("Anglo-\nSaxon") == "Anglo-\nSaxon"
    assert join("a post-\nhoc test; post-hoc") == "a post-hoc\ntest; post-hoc"
    assert join("a state-of-\nthe-art tool") == "a state-of-the-art\ntool"
    assert join("women-specific, a gender-\nspecific one, gender") == (
        "women-specific, a gender-specific\none, gender"
    )
    halves = "a question, a passage, a question, a passage, "
    assert join(f"{halves}question-\npassage pairs") == f"{halves}question-passage\npairs"
    assert join("over, view, over, view: an over-\nview of it").endswith("an overview\nof it")
    assert (
        join("see www.va.gov/special-\nburial.asp now") == "see www.va.gov/special-burial.asp\nnow"
    )
    assert join("pages 10-\n20") == "pages 10-\n20"
    assert join("cut at the very-\nend") == "cut at the veryend"


def filler(i):
    return [f"Line {j} of page {i} tells something of its own, at some length." for j in range(9)]


def test_running_heads_and_page_numbers():
    pages = []
    for i in range(12):
        head = [f"{i + 5} A LONG BOOK"] if i % 2 else [f"CHAPTER {1 + i // 6} {i + 5}"]
        pages.append("\n".join([*head, *filler(i), str(i + 5)]))
    numbers = list(range(1, 13))
    tidy = tidied(pages, numbers, dict.fromkeys(numbers))
    # The first of each head stays, the heads of short chapters too; no page number does.
    assert tidy[1] == "\n".join(["6 A LONG BOOK", *filler(1)])
    assert tidy[3] == "\n".join(filler(3))
    assert tidy[2].startswith("CHAPTER 1")
    assert all(not text.endswith(f"\n{i + 5}") for i, text in enumerate(tidy))


def test_lines_that_only_look_like_heads_stay():
    numbers = list(range(1, 11))
    labels = dict.fromkeys(numbers)
    # Numbers that follow no page numbering; a title that comes twice; slides with one title.
    tables = ["\n".join([str(i * i), *filler(i), "Total 7" if i < 3 else "Sum"]) for i in numbers]
    tidy = tidied(tables, numbers, labels)
    assert [t.split("\n")[0] for t in tidy] == [str(i * i) for i in numbers]
    assert tidy[0].endswith("Total 7") and tidy[1].endswith("Total 7")
    slides = [f"Results\nfirst point {i}\nsecond point {i}\nthird" for i in numbers]
    assert tidied(slides, numbers, labels) == slides


@needs_data
def test_arabic_is_left_to_pypdf(monkeypatch):
    """pdfium writes the two letters of a ligature the wrong way round."""
    if not pdfium.installed():
        pytest.skip("pypdfium2 (extra `fast`) is not installed")
    path = str(DATA / "right_to_left_01.pdf")
    monkeypatch.setattr(pdf, "PDFIUM_FROM_PAGES", 1)
    document = read_document(path)
    assert document.reader.startswith("pypdf ") and "الإنتاجية" in document.pages[0].text
    assert "Arabic" in read_document(path, backend="pdfium").warnings[0]
    assert not read_document(path, backend="pypdf").warnings


def test_form_entries_notes_and_attachments(tmp_path):
    from pypdf.generic import (
        ArrayObject,
        DictionaryObject,
        NameObject,
        NumberObject,
        TextStringObject,
    )  # fmt: skip

    def entry(**told):
        return DictionaryObject({NameObject(f"/{k}"): v for k, v in told.items()})

    field = {"Subtype": NameObject("/Widget"), "FT": NameObject("/Tx")}
    writer = pypdf.PdfWriter(clone_from=make_pdf(tmp_path / "a.pdf", [["The form asks for this."]]))
    writer.pages[0][NameObject("/Annots")] = ArrayObject([
        entry(**field, T=TextStringObject("name"), V=TextStringObject("Ada\nLovelace")),
        entry(**field, T=TextStringObject("pin"), V=TextStringObject("12"), Ff=NumberObject(8192)),
        entry(**field, T=TextStringObject("empty")),
        entry(Subtype=NameObject("/FreeText"), Contents=TextStringObject("looks wrong")),
        entry(Subtype=NameObject("/Link")),
        NumberObject(3),
    ])  # fmt: skip
    writer.add_attachment("data.csv", b"1,2")
    writer.write(tmp_path / "form.pdf")
    document = read_document(str(tmp_path / "form.pdf"))
    assert document.pages[0].text == (
        "The form asks for this.\n\n[name: Ada Lovelace]\n[note: looks wrong]"
    )
    assert document.warnings == ("1 file is embedded in the PDF and not read",)


def test_page_words_go():
    numbers = list(range(1, 7))
    pages = ["\n".join([*filler(i), f"Form 10 Page {i} of 6", f"{i}/6"]) for i in numbers]
    tidy = tidied(pages, numbers, dict.fromkeys(numbers))
    assert tidy[0].endswith("Form 10 Page 1 of 6")
    assert tidy[3] == "\n".join(filler(4))


def test_roman_page_numbers_go_by_their_label():
    numbers = [1, 2, 3]
    pages = [
        "\n".join([*filler(i), roman]) for i, roman in zip(numbers, ["i", "ii", "I"], strict=True)
    ]
    tidy = tidied(pages, numbers, {1: "i", 2: "ii", 3: "iii"})
    assert tidy[0] == "\n".join(filler(1)) and tidy[1] == "\n".join(filler(2))
    assert tidy[2].endswith("\nI")
