"""Finding a document, telling its format, and choosing pages."""

import hashlib
import io
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from cca_cli.documents import page_ranges, read_document
from cca_cli.documents.ranges import select_pages
from cca_cli.errors import CLIError, InputError, UsageError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "documents"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/documents is absent")


def refused(path, **options):
    """Return the InputError that a file gets, having checked its form."""
    with pytest.raises(InputError) as caught:
        read_document(str(path), **options)
    error = caught.value
    assert error.code == 4
    assert "\n" not in error.message + error.hint
    assert error.message and error.hint
    assert not error.message.endswith(".")
    return error


def test_missing_file_names_a_near_one(tmp_path):
    (tmp_path / "report.txt").write_text("text")
    error = refused(tmp_path / "reprot.txt")
    assert "no such file" in error.message
    assert str(tmp_path / "report.txt") in error.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pdf", b"", "empty"),
        ("garbage.bin", bytes(range(256)) * 20, "binary"),
        ("page.pdf", b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        ("fake.pdf", b"not a pdf at all", "not a PDF"),
        ("book.epub", b"not a book at all", "not an EPUB book"),
        ("page.docx", b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        ("blank.html", b"<html><body><script>var x = 1</script></body></html>", "blanks"),
        ("scan.png", b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        ("photo.txt", b"\xff\xd8\xff\xe0" + bytes(100), "JPEG"),
        ("letter.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "Office"),
        ("letter.rtf", b"{\\rtf1 hello}", "RTF"),
        ("book.txt.gz", b"\x1f\x8b\x08" + bytes(20), "gzip"),
        ("broken.docx", b"PK\x03\x04" + bytes(40), "damaged file"),
        ("blank.txt", b" \n\n\t\n", "blanks"),
        ("blank.md", b" \n\n\t\n", "blanks"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refused(path).message


def test_directory_is_refused(tmp_path):
    assert "directory" in refused(tmp_path).message


def test_permission_denied(tmp_path, monkeypatch):
    path = tmp_path / "secret.txt"
    path.write_text("text")

    def deny(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    error = refused(path)
    assert "permission denied" in error.message
    assert "chmod" in error.hint


def test_impossible_name():
    assert "cannot be opened" in refused("a\0b").message


@pytest.mark.parametrize(
    ("member", "what"),
    [
        ("word/document.xml", "document.xml: "),
        ("ppt/presentation.xml", "presentation.xml: "),
        ("META-INF/container.xml", "container.xml: "),
        ("xl/workbook.xml", "Excel"),
        ("visio/document.xml", "Visio"),
        ("readme.txt", "zip archive"),
    ],
)
def test_zip_files_are_told_apart(tmp_path, member, what):
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "x")
    assert what in refused(path).message


PAGE = "<!DOCTYPE html><title>t</title><p>hello"
NOTES = "# Notes\n\n## One\n\n- [ ] a task\n\n```\ncode\n```\n"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("page.html", "<p>hello</p>", "html"),
        ("page.txt", PAGE, "html"),
        ("page.md", PAGE, "html"),
        ("noname", "\n<html lang=en>hello</html>", "html"),
        ("noname", "<!--{ a template }-->\n<h2>One</h2>\n<p>text</p>", "html"),
        ("page.php", "<!DOCTYPE html><?php echo 1 ?>", "code"),
        ("hello.html", "no tags in here", "text"),
        ("run", "#!/bin/sh\necho hello\n", "code"),
        ("main.rs", "fn main() {}\n", "code"),
        ("Makefile", "all:\n\ttrue\n", "code"),
        ("README", NOTES, "markdown"),
        ("notes.txt", NOTES, "text"),
        ("noname", "a < b, and b > c; see [1](2)\n", "text"),
        ("noname", "# a comment\nkey = 1\n# another\n", "text"),
    ],
)
def test_texts_are_told_apart(tmp_path, name, content, kind):
    path = tmp_path / name
    path.write_text(content)
    assert read_document(str(path)).format == kind


@needs_data
@pytest.mark.parametrize("folder", ["docx", "epub", "html", "odt", "pptx", "markdown", "pdf"])
def test_content_tells_without_a_name(folder, monkeypatch):
    """Standard input has no name."""
    files = [p for p in (DATA / folder).iterdir() if p.is_file()]
    path = min(files, key=lambda p: p.stat().st_size)
    stream = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stream)
    assert read_document("-").format == folder


def test_content_beats_the_name(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"%PDF-1.7\nnothing more")
    assert "damaged PDF" in refused(path).message


def test_a_text_about_pdf_is_a_text(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("A file begins with %PDF-1.7 and ends with %%EOF.")
    assert read_document(str(path)).format == "text"


def test_kind_overrules_the_name(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("# One\n\ntext\n")
    assert read_document(str(path)).format == "text"
    assert read_document(str(path), kind="markdown").format == "markdown"
    refused(path, kind="pdf")


def test_identity(tmp_path, monkeypatch):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"one\r\ntwo\r\n")
    monkeypatch.chdir(tmp_path)
    document = read_document("notes.txt")
    assert document.name == "notes.txt"
    assert document.path == str(path)
    assert document.sha256 == hashlib.sha256(b"one\r\ntwo\r\n").hexdigest()
    assert document.pages[0].text == "one\ntwo"


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped text")))
    document = read_document("-")
    assert (document.name, document.path) == ("stdin", "-")
    assert document.pages[0].text == "piped text"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert "no data" in refused("-").message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_named_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"through a pipe",))
    writer.start()
    document = read_document(str(path))
    writer.join()
    assert document.pages[0].text == "through a pipe"


def test_import_reaches_no_reader():
    code = (
        "import sys, cca_cli.documents; "
        "print([m for m in ('pypdf', 'markdown_it', 'charset_normalizer', 'torch', 'lxml', "
        "'selectolax', 'zipfile') "
        "if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[1]
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'models'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


def test_page_ranges():
    assert page_ranges([1, 2, 3, 7]) == "1-3, 7"
    assert page_ranges([9, 4, 5, 4]) == "4-5, 9"
    assert page_ranges([]) == ""


ROMAN = ["i", "ii", "iii", "1", "2", "A-8", "A-9"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, [1, 2, 3, 4, 5, 6, 7]),
        ("1-2,5", [1, 2, 5]),
        ("5, 1-2", [1, 2, 5]),
        ("6-", [6, 7]),
        ("-2", [1, 2]),
        ("3,3,2-4", [2, 3, 4]),
        ("label:ii-1", [2, 3, 4]),
        ("label:II", [2]),
        ("label:2", [5]),
        ("label:A-8", [6]),
        ("label:A-8-A-9", [6, 7]),
        ("label:2-A-8", [5, 6]),
        ("label:2-", [5, 6, 7]),
    ],
)
def test_selected_pages(spec, expected):
    assert select_pages(spec, ROMAN, name="book.pdf") == expected


@pytest.mark.parametrize("spec", ["8", "0", "3-9", "5-2", "a-b", "1..3", "", ",", "-", "label:x"])
def test_bad_ranges_are_usage_errors_that_name_the_range(spec):
    with pytest.raises(UsageError) as caught:
        select_pages(spec, ROMAN, name="book.pdf")
    assert isinstance(caught.value, CLIError) and caught.value.code == 2
    hint = caught.value.hint
    assert "1-7" in hint or hint == "--pages 2-5"


def test_a_binary_kind_is_not_overruled(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"%PDF-1.7\nnothing more")
    assert "its content is a PDF, not markdown" in refused(path, kind="markdown").message
    (tmp_path / "a.txt").write_text("text")
    assert "not an EPUB book" in refused(tmp_path / "a.txt", kind="epub").message


def test_no_labels_to_choose_by():
    with pytest.raises(UsageError, match="no printed page labels"):
        select_pages("label:iv", [None, None], name="book.pdf")
