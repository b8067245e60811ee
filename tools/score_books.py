"""Ask the questions about five whole books, and count what is answered right and cited right.

    python tools/score_books.py --data whole_books.jsonl.xz
    python tools/score_books.py --data whole_books.jsonl.xz --read lexical --limit 2 --json

Every book is written to a text file and given to `cca ask` with its ten questions, as a user would
do it. A reply is right if its first line holds an accepted answer, from the start of a word on: 17
feet is not 7 feet, nor are millions lions. It is cited right if a verified citation names a page on
which the answer stands. Pages are those that `cca` gives to plain text.
"""

import argparse
import json
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cca_cli.errors import ExitCode
from cca_models.evaluation.metrics import confidence_interval, normalise, substring_match

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = ROOT / "tests" / "data" / "book_questions.jsonl"
MEASURES = ("right", "cited", "both")
# What ends as planned, be it with questions that could not be answered.
DONE = (ExitCode.OK, ExitCode.PARTIAL)


class BooksError(Exception):
    """What ends the scoring, in one sentence; the hint says what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question whose answer stands on one page of a book.

    Attributes:
        book: Id of the book.
        question: As asked.
        answers: Accepted answers.
        pages: Numbers of the pages on which the answer stands.
        depth: Where in the book that is, 0 to 1.
    """

    book: str
    question: str
    answers: list[str]
    pages: list[int]
    depth: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What came of one question.

    Attributes:
        book: Id of the book.
        question: As asked.
        answer: The reply, or None if the question failed.
        named: Pages of the verified citations, in their order.
        right: 1 if the reply holds an accepted answer, else 0.
        cited: 1 if one of `named` is a page of the answer, else 0.
        both: 1 if `right` and `cited`, else 0.
    """

    book: str
    question: str
    answer: str | None
    named: list[int]
    right: int
    cited: int
    both: int


def read_questions(path: Path) -> list[Question]:
    """Read the questions from JSON Lines.

    Raises:
        BooksError: If the file is missing or a line is no question.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Question(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise BooksError(f"{path}: {error}", "--questions takes JSON Lines") from error


def read_books(path: Path) -> dict[str, dict[str, str]]:
    """Read books by id from JSON Lines with id, title and text, packed with xz or not.

    Raises:
        BooksError: If the file is missing, damaged or holds something else.
    """
    try:
        data = path.read_bytes()
        text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8")
        # Not splitlines: the text of a book may hold U+2028 and the like.
        books = [json.loads(line) for line in text.split("\n") if line.strip()]
        return {b["id"]: {"title": b["title"], "text": b["text"]} for b in books}
    except (OSError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or f"not a file of books ({error})"
        raise BooksError(f"{path}: {reason}", "name whole_books.jsonl.xz with --data") from error


def ask(text: str, questions: Sequence[Question], options: Sequence[str]) -> list[dict[str, Any]]:
    """Put the questions about one book to `cca ask`, which reads the book once.

    Args:
        text: The book.
        questions: What to ask.
        options: More options of `cca ask`.

    Returns:
        Its JSON records, in the order of the questions.

    Raises:
        BooksError: If the command fails as a whole; it has said why on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        book, asked = Path(folder, "book.txt"), Path(folder, "questions.jsonl")
        book.write_bytes(text.encode("utf-8"))
        asked.write_text("".join(json.dumps({"question": q.question}) + "\n" for q in questions))
        done = subprocess.run(
            [sys.executable, "-m", "cca_cli", "ask", str(book), "--questions", str(asked),
             "--type", "text", "--encoding", "utf-8", "--jsonl", *options],
            stdout=subprocess.PIPE, encoding="utf-8", check=False,
        )  # fmt: skip
    records = [json.loads(line) for line in done.stdout.split("\n") if line]
    if done.returncode not in DONE or len(records) != len(questions):
        raise BooksError(
            f"cca ask ended with exit code {done.returncode}, {len(records)} answers of "
            f"{len(questions)}",
            "its own message above says why",
        )
    return records


def stands_in(answer: str, text: str) -> bool:
    """Say whether the answer stands in the text from the start of a word on, both normalised.

    It may end within a word, as the singular in its plural.
    """
    return f" {normalise(answer)}" in f" {normalise(text)}"


def score(question: Question, record: Mapping[str, Any]) -> Score:
    """Compare a record of `cca ask --jsonl` with what is accepted."""
    reply = record["answer"] or ""
    named = [int(c["page"]) for c in record["citations"] if c["verified"]]
    right = int(any(substring_match(reply, [a]) and stands_in(a, reply) for a in question.answers))
    cited = int(not set(named).isdisjoint(question.pages))
    return Score(
        book=question.book,
        question=question.question,
        answer=record["answer"],
        named=named,
        right=right,
        cited=cited,
        both=right * cited,
    )


def summary(scores: Sequence[Score]) -> dict[str, float | int | tuple[float, float]]:
    """Give the number of questions, each measure's mean, and how many pages a reply named."""
    means: dict[str, float | int | tuple[float, float]] = {"n": len(scores)}
    for measure in MEASURES:
        values = [float(getattr(s, measure)) for s in scores]
        means[measure] = sum(values) / len(values)
        means[f"{measure}_ci95"] = confidence_interval(values)
    means["pages_named"] = sum(len(s.named) for s in scores) / len(scores)
    return means


def table(titles: Mapping[str, str], scores: Sequence[Score]) -> str:
    """Lay out the shares per book and overall, in per cent."""
    rows = [(title, [s for s in scores if s.book == book]) for book, title in titles.items()]
    lines = [f"{'book':<40} {'n':>3} {'right':>7} {'cited':>7} {'both':>7} {'pages named':>12}"]
    for title, part in [*rows, ("all", list(scores))]:
        found = summary(part)
        shares = " ".join(f"{found[m]:>7.0%}" for m in MEASURES)
        lines.append(f"{title[:40]:<40} {len(part):>3} {shares} {found['pages_named']:>12.1f}")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> tuple[dict[str, str], list[Score]]:
    """Ask what the arguments say, and return the books' titles and the scores.

    Raises:
        BooksError: If the files do not fit together, or `cca ask` fails.
    """
    chosen = read_questions(args.questions)
    books = read_books(args.data)
    wanted = args.book or list(dict.fromkeys(q.book for q in chosen))
    options = ["--read", args.read, "--device", args.device, "--cache", args.cache]
    for name in ("model", "adapter"):
        if getattr(args, name) is not None:
            options += [f"--{name}", getattr(args, name)]
    titles: dict[str, str] = {}
    scores: list[Score] = []
    for book in wanted:
        asked = [q for q in chosen if q.book == book][: args.limit]
        if book not in books or not asked:
            where = args.data if asked else args.questions
            raise BooksError(f"{where}: nothing about {book}", "check --data, --questions, --book")
        titles[book] = books[book]["title"]
        print(f"{titles[book]}: {len(asked)} questions", file=sys.stderr, flush=True)
        records = ask(books[book]["text"], asked, options)
        scores += [score(q, record) for q, record in zip(asked, records, strict=True)]
    return titles, scores


def main(argv: Sequence[str] | None = None) -> int:
    """Score the books and print the table, or with --json everything."""
    parser = argparse.ArgumentParser(
        description="Score cca ask on questions about whole books: answered right, cited right."
    )
    parser.add_argument("--data", type=Path, required=True, help="whole_books.jsonl.xz")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help="questions with pages")
    parser.add_argument("--read", choices=("focus", "core", "lexical"), default="focus")
    parser.add_argument("--model", help="as in cca ask; the default model if left out")
    parser.add_argument("--adapter", help="as in cca ask")
    parser.add_argument("--device", default="auto", help="as in cca ask")
    parser.add_argument(
        "--cache",
        choices=("off", "use", "refresh"),
        default="off",
        help="off leaves nothing behind; use keeps what was read in the library",
    )
    parser.add_argument("--book", action="append", metavar="ID", help="this book; may be repeated")
    parser.add_argument("--limit", type=_positive, metavar="N", help="first N questions of a book")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        titles, scores = run(args)
    except BooksError as error:
        print(f"score_books: error: {error}", file=sys.stderr)
        print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    if args.json:
        found = {
            "settings": {key: str(value) for key, value in vars(args).items() if value is not None},
            "books": {b: summary([s for s in scores if s.book == b]) for b in titles},
            "all": summary(scores),
            "answers": [asdict(s) for s in scores],
        }
        print(json.dumps(found, indent=2))
    else:
        print(table(titles, scores))
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
