"""The questions about whole books: the file itself, the pages it names, and how it is scored."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_cli.documents import read_document
from cca_models.documents import Document

ROOT = Path(__file__).resolve().parents[1]
BOOKS = ROOT.parent / "shared" / "data" / "eval" / "whole_books.jsonl.xz"
sys.path.insert(0, str(ROOT / "tools"))

import score_books  # noqa: E402
from score_books import QUESTIONS, BooksError, Question, read_questions, stands_in  # noqa: E402

ASKED = read_questions(QUESTIONS)
# Accepted in figures as well.
NUMBERS = {"5": "five", "6": "six", "7": "seven", "15": "fifteen"}
IDS = list(dict.fromkeys(q.book for q in ASKED))
needs_books = pytest.mark.skipif(not BOOKS.exists(), reason="the books are not beside the checkout")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    """The books as `cca` reads them."""
    folder = tmp_path_factory.mktemp("books")
    read = {}
    for number, (name, book) in enumerate(score_books.read_books(BOOKS).items()):
        path = folder / f"{number}.txt"
        path.write_bytes(book["text"].encode("utf-8"))
        read[name] = read_document(str(path), kind="text", encoding="utf-8")
    return read


def spelt(answer: str) -> str:
    """The answer as the books write it, which have no figures."""
    return " ".join(NUMBERS.get(word, word) for word in answer.split())


def test_ten_questions_about_each_of_five_books() -> None:
    assert len(ASKED) == 50
    assert [sum(q.book == book for q in ASKED) for book in IDS] == [10] * 5
    assert len({q.question for q in ASKED}) == 50


@pytest.mark.parametrize("question", ASKED, ids=lambda q: q.question)
def test_question_is_well_formed(question: Question) -> None:
    assert question.question.endswith("?") and question.question == question.question.strip()
    assert question.answers and all(0 < len(a.split()) <= 4 for a in question.answers)
    assert question.pages and question.pages == sorted(set(question.pages))
    assert not any(stands_in(answer, question.question) for answer in question.answers)


@pytest.mark.parametrize("book", IDS)
def test_answers_are_spread_over_the_book(book: str) -> None:
    depths = [q.depth for q in ASKED if q.book == book]
    assert [int(depth * 10) for depth in depths] == list(range(10))


@needs_books
@pytest.mark.parametrize("question", ASKED, ids=lambda q: q.question)
def test_answer_stands_on_its_pages(question: Question, documents: dict[str, Document]) -> None:
    pages = documents[question.book].pages
    for number in question.pages:
        assert pages[number - 1].number == number
        missing = [a for a in question.answers if not stands_in(spelt(a), pages[number - 1].text)]
        assert not missing, f"page {number} does not hold {missing}"
    assert question.depth == pytest.approx((question.pages[0] - 0.5) / len(pages), abs=1e-3)


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("St. Helena", "lost in a gale off St. Helena.", True),
        ("lions", "covered with lions", True),
        ("lions", "the wild millions of Asia", False),
        ("7 feet", "He stood 17 feet tall.", False),
        ("Dagan", "Bishop Columban", False),
    ],
)
def test_answers_are_looked_for_as_words(answer: str, text: str, found: bool) -> None:
    assert stands_in(answer, text) is found


# How replies are scored.

ESTATE = Question(book="b", question="Who inherits?", answers=["nephew"], pages=[2, 3], depth=0.5)


def record(answer: str | None, *pages: int, verified: bool = True) -> dict[str, Any]:
    return {"answer": answer, "citations": [{"page": p, "verified": verified} for p in pages]}


@pytest.mark.parametrize(
    ("reply", "right", "cited", "both"),
    [
        (record("The Nephew.", 1, 3), 1, 1, 1),
        (record("The nephew.", 1), 1, 0, 0),
        (record("The sister.", 2), 0, 1, 0),
        (record("The nephew.", 2, verified=False), 1, 0, 0),
        (record("The sister.\nThe nephew.", 2), 0, 1, 0),
        (record(None), 0, 0, 0),
    ],
    ids=["both", "other page", "wrong", "unverified", "second line", "failed"],
)
def test_score(reply: dict[str, Any], right: int, cited: int, both: int) -> None:
    found = score_books.score(ESTATE, reply)
    assert (found.right, found.cited, found.both) == (right, cited, both)


def test_shares_are_given_per_book_and_over_all() -> None:
    other = Question(book="c", question="Why?", answers=["rain"], pages=[1], depth=0.1)
    scores = [
        score_books.score(ESTATE, record("nephew", 2)),
        score_books.score(ESTATE, record("nephew", 1)),
        score_books.score(other, record("wind", 1)),
    ]
    lines = score_books.table({"b": "Bleak", "c": "Cold"}, scores).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["Bleak", "2", "100%", "50%", "50%", "1.0"],
        ["Cold", "1", "0%", "100%", "0%", "1.0"],
        ["all", "3", "67%", "67%", "33%", "1.0"],
    ]


# The whole way, on a tiny random model.


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture
def score_it(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Score two questions about a book of two sections."""
    model = make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)
    weather = "The keeper wrote down the weather every evening.\n" * 60
    text = f"{weather}\n{weather}\nThe nephew inherits the estate.\n"
    data, asked = tmp_path / "books.jsonl", tmp_path / "questions.jsonl"
    data.write_text(json.dumps({"id": "b", "title": "The estate", "text": text}) + "\n")
    questions = [
        {"book": "b", "question": "Who inherits the estate?", "answers": ["nephew"]},
        {"book": "b", "question": "Who wrote down the weather?", "answers": ["keeper"]},
    ]
    places = [{"pages": [3], "depth": 0.9}, {"pages": [1], "depth": 0.1}]
    lines = [json.dumps({**q, **p}) for q, p in zip(questions, places, strict=True)]
    asked.write_text("\n".join(lines) + "\n")
    files = ["--data", str(data), "--questions", str(asked), "--model", str(model)]

    def call(*options: str) -> tuple[int, str, str]:
        code = score_books.main([*files, "--read", "lexical", "--device", "cpu", *options])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize("read", ["focus", "core", "lexical"])
def test_books_are_asked_by_the_command_itself(
    score_it: Callable[..., tuple[int, str, str]], read: str
) -> None:
    code, out, err = score_it("--read", read, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["all"]["n"] == 2
    assert [a["question"] for a in found["answers"]] == [
        "Who inherits the estate?",
        "Who wrote down the weather?",
    ]
    assert all(isinstance(a["answer"], str) for a in found["answers"])
    named = [page for a in found["answers"] for page in a["named"]]
    assert set(named) <= {1, 2, 3}
    assert named or read == "core", "passages that were read are cited"


def test_limit_counts_the_questions_of_a_book(
    score_it: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, err = score_it("--limit", "1")
    assert code == 0, err
    assert out.splitlines()[-1].split()[:2] == ["all", "1"]


def test_failing_command_ends_the_scoring(score_it: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = score_it("--model", "/no/such/model")
    assert code == 1 and out == ""
    assert "no such file" in err and "score_books: error: cca ask ended with exit code 6" in err


def test_unknown_book_is_named(score_it: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = score_it("--book", "c")
    assert code == 1 and "nothing about c" in err


@pytest.mark.parametrize("content", ["", "{}", "no json"])
def test_what_is_no_file_of_books_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "books.jsonl.xz"
    path.write_text(content)
    with pytest.raises(BooksError, match="not a file of books"):
        score_books.read_books(path)
