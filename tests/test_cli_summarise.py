"""``cca summarise`` on a tiny random model: coverage, chapters, codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_cli.app import run
from cca_cli.formatting import strip_control
from cca_cli.library import Library
from cca_cli.paths import library_dir

Cca = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    return make_tiny_checkpoint(path, context=4096, layers=1)


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three chapters, the middle one longer than a window."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CCA_CACHE_DIR", raising=False)
    # A random model does not stop by itself; its summaries need not be long.
    monkeypatch.setattr("cca_models.reading.summarising.TOKENS_PER_SENTENCE", 5)
    book = tmp_path / "book.md"
    long = "The keeper wrote down the weather every evening. " * 120
    book.write_text(
        f"# First\n\nThe lamp was lit.\n\n# Second\n\n{long}\n\n# Third\n\nThe garden was kept.\n"
    )
    return book


@pytest.fixture
def cca(book: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Cca:
    def call(*args: str) -> tuple[int, str, str]:
        code = run([*args, "-m", str(checkpoint), "--length", "short"])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize("command", ["summarise", "summarize"])
def test_json_says_what_was_read(cca: Cca, book: Path, command: str) -> None:
    code, out, err = cca(command, str(book), "--json")
    record = json.loads(out)
    assert code == 0 and record["schema_version"] == 1
    assert (record["doc"], record["path"]) == ("book.md", str(book))
    assert isinstance(record["summary"], str)
    sections = record["sections"]
    assert [s["title"] for s in sections] == ["First", "Second", "Third"]
    coverage = record["coverage"]
    assert coverage["pages"] >= 3 and coverage["unit"] == "section"
    assert coverage["parts"] == sum(s["parts"] for s in sections) > 3
    pages = [n for s in sections for n in range(s["first_page"], s["last_page"] + 1)]
    assert pages == list(range(1, coverage["pages"] + 1))
    assert record["truncated"] is None and record["error"] is None
    assert record["model"]["name"] == "tiny" and record["timing_s"]["summarise"] > 0
    assert "all" in err and str(coverage["pages"]) in err
    assert Library(library_dir()).directories() == []


def test_the_summary_goes_to_stdout(cca: Cca, book: Path) -> None:
    record = json.loads(cca("summarise", str(book), "--json")[1])
    code, out, err = cca("summarise", str(book))
    assert code == 0 and out == strip_control(record["summary"]) + "\n"
    pages = record["coverage"]["pages"]
    assert f"book.md: all {pages} sections" in err
    assert f"book.md: {pages} of {pages} sections\n" in err


def test_by_chapter(cca: Cca, book: Path) -> None:
    record = json.loads(cca("summarise", str(book), "--json")[1])
    code, out, _ = cca("summarise", str(book), "--by", "chapter")
    assert code == 0 and out.endswith(strip_control(record["summary"]) + "\n")
    places = [out.index(f"{s['title']} (section") for s in record["sections"]]
    assert places == sorted(places)
    for section in record["sections"]:
        assert strip_control(section["summary"]) in out


def test_by_page(cca: Cca, book: Path) -> None:
    code, out, _ = cca("summarise", str(book), "--by", "page", "--jsonl")
    *sections, whole = (json.loads(line) for line in out.splitlines())
    pages = whole["coverage"]["pages"]
    assert code == 0 and whole["summary"] and whole["by"] == "page" and "sections" not in whole
    assert [s["section"]["first_page"] for s in sections] == list(range(1, pages + 1))
    assert all(s["section"]["last_page"] == s["section"]["first_page"] for s in sections)
    assert whole["coverage"]["read"] == pages and whole["coverage"]["without_text"] == []


def test_one_document_a_call(cca: Cca, book: Path) -> None:
    code, out, err = cca("summarise", str(book), "other.pdf")
    assert (code, out) == (2, "") and "other.pdf: more arguments than cca summarise takes" in err


def test_a_document_without_chapters_says_so(cca: Cca, book: Path) -> None:
    plain = book.with_name("plain.txt")
    plain.write_text("The lamp was lit.\n")
    code, out, err = cca("summarise", str(plain), "--by", "chapter")
    assert code == 0 and "no chapters are known" in err and out.startswith("section 1\n")
    assert "no chapters" not in cca("summarise", str(book), "--by", "chapter")[2]
    titled = book.with_name("titled.md")
    titled.write_text("# The book\n\nBy hand.\n\n## One\n\nA lamp.\n\n## Two\n\nA door.\n")
    code, out, err = cca("summarise", str(titled), "--by", "chapter")
    assert code == 0 and "no chapters" not in err
    assert out.startswith("The book (section 1)\n") and "\nTwo (section 3)\n" in out
    assert "no chapters" not in cca("summarise", str(plain))[2]


def test_coverage_names_the_selection(cca: Cca, book: Path) -> None:
    code, _, err = cca("summarise", str(book), "--pages", "2-3", "--by", "page")
    assert code == 0 and "book.md: 2 of 2 sections chosen by --pages 2-3\n" in err


def test_some_pages(cca: Cca, book: Path) -> None:
    code, out, _ = cca("summarise", str(book), "--pages", "3", "--json")
    record = json.loads(out)
    assert code == 0 and record["coverage"]["pages"] == 1
    assert [(s["first_page"], s["last_page"]) for s in record["sections"]] == [(3, 3)]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["absent.pdf"], 4),
        (["BOOK", "--by", "sentence"], 2),
        (["BOOK", "--pages", "99"], 2),
        ([], 2),
    ],
    ids=str,
)
def test_wrong_usage(cca: Cca, book: Path, args: list[str], code: int) -> None:
    done, out, err = cca("summarise", *(str(book) if a == "BOOK" else a for a in args))
    assert (done, out) == (code, "") and "cca: error:" in err and "hint: " in err
