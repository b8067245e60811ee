"""The run that looks quotes up: it must find what is wrong, or its table says nothing."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import citations_run

TEXT = "The keeper wrote. The nephew inherits the whole estate\nof his uncle. It rained."
QUOTE = "The nephew inherits the whole estate\nof his uncle."
PAGES = [{"number": 1, "text": "Contents."}, {"number": 2, "text": TEXT}]


def record(**changes: Any) -> dict[str, Any]:
    start = TEXT.index(QUOTE)
    facts = {"page": 2, "quote": QUOTE, "start": start, "end": start + len(QUOTE)}
    return {"error": None, "found": True, "citations": [{"verified": True, **facts, **changes}]}


@pytest.fixture
def book(tmp_path: Path) -> Path:
    book = tmp_path / "book.md"
    book.write_text(f"# One\n\nContents.\n\n{TEXT}\n")
    return book


def test_a_quote_in_its_place(book: Path) -> None:
    found = citations_run.check(book, [record()], PAGES)
    assert found["faults"] == found["doubts"] == [] and found["verified"] == 1
    assert found["found by another reader"] == 1


@pytest.mark.parametrize(
    "changes",
    [{"page": 1}, {"page": 9}, {"start": 3}, {"quote": QUOTE[:-1] + "!"}, {"quote": "", "end": 0}],
    ids=str,
)
def test_quotes_out_of_place_are_faults(book: Path, changes: dict[str, Any]) -> None:
    assert len(citations_run.check(book, [record(**changes)], PAGES)["faults"]) == 1


def test_what_only_cca_reads_is_doubted(book: Path) -> None:
    book.write_text("Another text.")
    found = citations_run.check(book, [record()], PAGES)
    assert found["faults"] == [] and len(found["doubts"]) == 1


def test_quotes_that_are_not_verified_are_only_counted(book: Path) -> None:
    found = citations_run.check(book, [record(verified=False, quote="invented")], PAGES)
    assert found["faults"] == [] and found["citations"] == 1 and "verified" not in found


def test_markup_is_taken_away(tmp_path: Path) -> None:
    page = "<html><style>p {x: y}</style><p>The ne<b>phew</b> inherits &amp; sells.</p>"
    (tmp_path / "a.html").write_text(page)
    with zipfile.ZipFile(tmp_path / "a.epub", "w") as archive:
        archive.writestr("one.xhtml", page)
    for name in ("a.html", "a.epub"):
        text = citations_run.other_text(tmp_path / name, 1)
        assert citations_run.letters(text) == "thenephewinheritssells"


def test_questions_are_made_of_the_text() -> None:
    pages = [{"text": "The nephew of the merchant inherits the whole estate of his wealthy uncle."}]
    (question,) = citations_run.make_questions(pages, 5)
    words = question.removeprefix("What is said of ").rstrip("?").replace(" and", ",").split(", ")
    assert len(words) == 3 and all(word in pages[0]["text"] for word in words)
