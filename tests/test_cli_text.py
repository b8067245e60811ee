"""``cca text``, ``--strict`` and directories on the command line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from document_files import make_epub, make_pptx, shape
from reportlab.pdfgen.canvas import Canvas

from cca_cli.app import run

Cca = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cca:
    """Run a command line in a folder of its own, with an empty home."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        code = run(args)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Three slides, of which the second is a picture."""
    shapes = [shape("Aims", kind="title") + shape("one"), "", shape("End", kind="title")]
    return make_pptx(tmp_path / "talk.pptx", shapes)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A PDF of six pages with a running head, page numbers and a word cut in two."""
    canvas = Canvas(str(tmp_path / "report.pdf"), pagesize=(500, 700))
    for page in range(1, 7):
        lines = [
            "THE YEARLY REPORT",
            *(f"line {i} of page {page}, full of words" for i in range(20)),
        ]
        animal = ("ants", "bees", "cats", "dogs", "emus", "fish")[page - 1]
        lines += ["an exam-", f"ple of {animal}", str(page)]
        for row, line in enumerate(lines):
            canvas.drawString(40, 660 - 14 * row, line)
        canvas.showPage()
    canvas.save()
    return tmp_path / "report.pdf"


def test_one_page_and_several(cca: Cca, slides: Path) -> None:
    assert cca("text", "talk.pptx", "--page", "1") == (0, "Aims\n\none\n", "talk.pptx: 1 page "
                                                       "without text (2)\n")  # fmt: skip
    code, out, _ = cca("text", "talk.pptx", "-q")
    assert (code, out) == (0, "Aims\n\none\n\f\n\fEnd\n")
    # What was written can be read again with its pages.
    Path("talk.txt").write_text(out)
    code, out, _ = cca("text", "talk.txt", "--page", "3", "-q")
    assert (code, out) == (0, "End\n")


def test_wrong_pages(cca: Cca, slides: Path) -> None:
    code, out, err = cca("text", "talk.pptx", "--page", "4")
    assert (code, out) == (2, "") and "talk.pptx has pages 1-3" in err


def test_json(cca: Cca, slides: Path) -> None:
    code, out, _ = cca("text", "talk.pptx", "--pages", "1,3", "--json")
    told = json.loads(out)
    assert code == 0 and told["format"] == "pptx" and told["count"] == 3
    assert [page["number"] for page in told["pages"]] == [1, 3]
    assert told["outline"][1] == {"title": "End", "page": 3, "level": 0}
    code, out, _ = cca("text", "talk.pptx", "--jsonl")
    assert [json.loads(line)["characters"] for line in out.splitlines()] == [9, 0, 3]


def test_outline(cca: Cca, tmp_path: Path) -> None:
    make_epub(tmp_path / "a.epub", {"a.xhtml": "<h1>One</h1><p>x</p><h2>Two</h2><p>y</p>"})
    assert cca("text", "a.epub", "--outline") == (0, "One\t1\n  Two\t2\n", "")
    (tmp_path / "a.txt").write_text("text")
    assert cca("text", "a.txt", "--outline") == (0, "", "a.txt: has no outline\n")


def test_standard_input(cca: Cca, monkeypatch: pytest.MonkeyPatch, slides: Path) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(slides.read_bytes())))
    code, out, _ = cca("text", "-", "--page", "3", "-q")
    assert (code, out) == (0, "End\n")


def test_terminal_escapes_go(cca: Cca, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\x1b[31mred\x1b]52;c;aGk=\x07 end" + " word" * 50)
    code, out, _ = cca("text", "a.txt")
    assert code == 0 and "\x1b" not in out and "\x07" not in out


def test_strict_names_the_pages(cca: Cca, slides: Path) -> None:
    code, out, err = cca("text", "talk.pptx", "--strict")
    assert (code, out) == (4, "")
    assert "has 1 page without text (2), and --strict is set" in err and "hint: " in err
    code, _, err = cca("text", "talk.pptx", "--strict", "--json")
    assert code == 4 and json.loads(err)["error"]["code"] == 4
    make_pptx(Path("whole.pptx"), [shape("a"), shape("b")])
    assert cca("text", "whole.pptx", "--strict")[0] == 0


def test_a_page_alone_reads_as_in_the_whole(cca: Cca, report: Path) -> None:
    """A running head shows as one on the other pages only."""
    _, out, _ = cca("text", "report.pdf", "--page", "3")
    assert "YEARLY" not in out and out.endswith("an example\nof cats\n")
    _, first, _ = cca("text", "report.pdf", "--page", "1")
    assert first.startswith("THE YEARLY REPORT\n")


@pytest.mark.parametrize("backend", ["pypdf", "pdfium"])
def test_offsets_point_at_the_original(cca: Cca, report: Path, backend: str) -> None:
    if backend == "pdfium":
        pytest.importorskip("pypdfium2")
    args = ("text", "report.pdf", "--pdf-backend", backend, "--original")
    code, out, _ = cca(*args, "--json")
    pages = json.loads(out)["pages"]
    assert code == 0 and len(pages) == 6
    for page in pages:
        text, original = page["text"], page["original"]
        assert ("YEARLY" in original and "YEARLY" not in text) or page["number"] == 1
        place = {at + i: start + i for at, end, start in page["spans"] for i in range(end - at)}
        assert sorted(place) == list(range(len(text)))
        for word in ("line 7 of", "full of", "exam", "of "):
            at = text.rindex(word)
            assert original[place[at] : place[at] + len(word)] == word
            # Each stands after the running head, whose letters are much the same.
            assert place[at] > original.index("YEARLY")
        joined = text.index("example")
        assert original[place[joined + 4] :].startswith("ple of")
    _, out, _ = cca(*args, "--page", "2")
    assert "YEARLY" in out and "example" not in out


def test_other_formats_have_no_original(cca: Cca, slides: Path) -> None:
    code, _, err = cca("text", "talk.pptx", "--original")
    assert code == 2 and "is no PDF" in err


def test_directories_are_read(cca: Cca, tmp_path: Path, slides: Path) -> None:
    from cca_cli.collecting import collect_documents
    from cca_cli.console import Console

    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    console = Console()
    assert [Path(f).name for f in collect_documents(console, [str(tmp_path)])] == ["talk.pptx"]
    code, _, err = cca("text", str(tmp_path))
    assert code == 4 and "is a directory, not a file" in err
