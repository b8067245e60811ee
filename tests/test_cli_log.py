"""The log of questions and answers: what is kept, what is not, and that it is gone when removed."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_cli.app import run
from cca_cli.question_log import QuestionLog, is_on

SECRET = "the nephew inherits the estate"
Cca = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    for name in ("CCA_CACHE_DIR", "CCA_LOG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def cca(home: Path, capsys: pytest.CaptureFixture[str]) -> Cca:
    def call(*args: str) -> tuple[int, str, str]:
        code = run(args)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def ask(cca: Cca, tmp_path: Path, checkpoint: Path) -> Cca:
    """Ask a document of one page, by words alone."""
    book = tmp_path / "book.md"
    book.write_text(f"# A heading of its own\n\nOn Monday {SECRET}.\n")

    def call(*args: str) -> tuple[int, str, str]:
        fixed = ("-m", str(checkpoint), "--read", "lexical", "--max-new-tokens", "3")
        return cca("ask", str(book), *args, *fixed)

    return call


def row(question: str = "Who?", **changes: Any) -> dict[str, Any]:
    """Make a row of the log."""
    document = {"name": "book.md", "path": "/b/book.md", "sha256": "0", "pages": 1, "unit": "page"}
    facts = {
        "question": question, "answer": "Nobody.", "found": True, "documents": [document],
        "citations": [], "settings": {"read": "focus"}, "model": "tiny", "seconds": 1.0,
        "error": None,
    }  # fmt: skip
    return {**facts, **changes}


def test_an_answer_is_kept_without_the_document(ask: Cca, cca: Cca, home: Path) -> None:
    record = json.loads(ask("Who inherits the estate?", "--json")[1])
    assert record["log"] == {"id": 1, "conversation": 1} and record["citations"]
    (kept,) = json.loads(cca("log", "--json")[1])["answers"]
    assert (kept["question"], kept["answer"]) == ("Who inherits the estate?", record["answer"])
    assert kept["found"] == record["found"] and kept["error"] is None
    assert kept["documents"][0]["sha256"] == record["documents"][0]["sha256"]
    first = record["citations"][0]
    assert {k: kept["citations"][0][k] for k in ("doc", "page", "start", "end")} == {
        k: first[k] for k in ("doc", "page", "start", "end")
    }
    moment = datetime.fromisoformat(kept["asked"])
    assert moment.utcoffset() == timedelta(0) and datetime.now(UTC) - moment < timedelta(minutes=1)
    files = [file.read_bytes() for file in (home / "data").iterdir()]
    assert files and not any(SECRET.encode() in file for file in files)
    assert not any(b"A heading of its own" in file for file in files)


def test_only_the_owner_can_read_it(ask: Cca, home: Path) -> None:
    ask("Who?")
    assert stat.S_IMODE((home / "data").stat().st_mode) == 0o700
    for file in (home / "data").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("off", ["--no-log", "--cache=off", "CCA_LOG"])
def test_ways_to_keep_nothing(
    ask: Cca, home: Path, off: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if off == "CCA_LOG":
        monkeypatch.setenv("CCA_LOG", "off")
    options = [] if off == "CCA_LOG" else [off]
    code, out, _ = ask("Who?", "--json", *options)
    assert code == 0 and json.loads(out)["log"] is None
    assert not list(home.rglob("*.sqlite3*"))


@pytest.mark.parametrize("value", ["off", "OFF", "0", "no", "false"])
def test_values_that_turn_it_off(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CCA_LOG", value)
    assert not is_on()


@pytest.mark.parametrize("value", ["", "on", "1"])
def test_values_that_leave_it_on(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CCA_LOG", value)
    assert is_on()


def test_a_log_that_cannot_be_written_costs_no_answer(ask: Cca, home: Path) -> None:
    (home / "data").mkdir(parents=True)
    (home / "data/questions.sqlite3").write_bytes(b"not a database, but long enough for one" * 9)
    code, out, err = ask("-Q", "Who?", "-Q", "What?", "--jsonl")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [r["log"] for r in records] == [None, None]
    assert err.count("the answer is not in the log") == 1


def test_a_log_of_a_newer_version_is_left_alone(cca: Cca, ask: Cca, home: Path) -> None:
    ask("Who?")
    with sqlite3.connect(home / "data/questions.sqlite3") as base:
        base.execute("PRAGMA user_version = 99")
    code, _, err = ask("What?")
    assert code == 0 and "newer version" in err
    code, out, err = cca("log")
    assert (code, out) == (4, "") and "newer version" in err and "hint: " in err


def test_listing_and_searching(cca: Cca, home: Path) -> None:
    assert cca("log", "--json")[1].strip() and "nothing was asked" in cca("log")[2]
    log = QuestionLog()
    for i in range(30):
        log.add(row(f"Question {i}: 100 %?"), conversation=None)
    log.add(row("A tab\tand\nlines", answer="Éowyn"), conversation=None)
    lines = cca("log")[1].splitlines()
    assert lines[0].split("\t")[:3] == ["id", "asked", "question"] and len(lines) == 21
    assert lines[1].split("\t")[2] == "A tab and lines"
    assert len(cca("log", "-n", "0")[1].splitlines()) == 32
    assert len(cca("log", "--jsonl", "-n", "3")[1].splitlines()) == 3

    def found(text: str) -> int:
        return len(json.loads(cca("log", "-n", "0", "--search", text, "--json")[1])["answers"])

    assert [found(t) for t in ("question 7", "100 %", "100_%", "BOOK.MD", "wyn", "zzz")] == [
        1, 30, 0, 31, 1, 0,
    ]  # fmt: skip


def test_showing_one(cca: Cca, home: Path) -> None:
    QuestionLog().add(row("Who?", answer="The nephew."), conversation=None)
    code, out, _ = cca("log", "show", "1")
    assert code == 0 and out.startswith("Who?\nThe nephew.\n") and "/b/book.md" in out
    assert json.loads(cca("log", "show", "1", "--json")[1])["answer"] == "The nephew."
    code, out, err = cca("log", "show", "2")
    assert (code, out) == (4, "") and "not in the log" in err


def test_path(cca: Cca, home: Path) -> None:
    path = str(home / "data/questions.sqlite3")
    assert cca("log", "path")[1] == f"{path}\n"
    assert json.loads(cca("log", "path", "--json")[1])["exists"] is False
    assert not Path(path).exists()


def test_what_is_removed_is_gone_from_the_file(cca: Cca, home: Path) -> None:
    log = QuestionLog()
    secrets = [f"my-secret-{i}-" * 40 for i in range(4)]
    for secret in secrets:
        log.add(row(secret), conversation=None)

    def held(secret: str) -> bool:
        return any(secret.encode() in f.read_bytes() for f in (home / "data").iterdir())

    assert all(map(held, secrets))
    assert json.loads(cca("log", "rm", "2", "--json")[1])["removed"] == 1
    assert [held(secret) for secret in secrets] == [True, False, True, True]
    with sqlite3.connect(log.path) as base:
        base.execute("UPDATE answers SET asked = '2020-01-01T00:00:00+00:00' WHERE id = 1")
    assert json.loads(cca("log", "rm", "--older-than", "30", "--json")[1])["removed"] == 1
    assert [row["id"] for row in log.rows()] == [4, 3]
    assert cca("log", "rm", "--all")[0] == 0
    assert log.rows() == [] and not any(map(held, secrets))
    # Numbers are not given out again.
    assert log.add(row("Next?"), conversation=None) == (5, 5)


@pytest.mark.parametrize(
    ("args", "code"),
    [([], 2), (["1", "--all"], 2), (["7"], 4), (["1", "7"], 4), (["--older-than", "-1"], 2)],
)
def test_removals_that_are_refused(cca: Cca, home: Path, args: list[str], code: int) -> None:
    QuestionLog().add(row(), conversation=None)
    done, out, err = cca("log", "rm", *args)
    assert (done, out) == (code, "") and "hint: " in err
    assert len(QuestionLog().rows()) == 1


def test_several_processes_write_at_once(home: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    code = (
        f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'models')!r},"
        f" {str(root / 'tests')!r}]\n"
        "from cca_cli.question_log import QuestionLog\n"
        "log, name = QuestionLog(), sys.argv[1]\n"
        "row = dict(question='', answer='', found=None, documents=[], citations=[], settings={},"
        " model='', seconds=0.0, error=None)\n"
        "for i in range(20):\n"
        "    log.add({**row, 'question': f'{name} {i}'}, conversation=None)\n"
    )
    many = [subprocess.Popen([sys.executable, "-c", code, str(i)]) for i in range(4)]
    assert [process.wait(timeout=60) for process in many] == [0] * 4
    rows = QuestionLog().rows()
    assert {r["question"] for r in rows} == {f"{n} {i}" for n in range(4) for i in range(20)}
    assert sorted(r["id"] for r in rows) == list(range(1, 81))
    assert all(r["conversation"] == r["id"] for r in rows)


def test_conversations(home: Path) -> None:
    log = QuestionLog()
    log.add(row("Alone?"), conversation=None)
    _, talk = log.add(row("First?"), conversation=None)
    log.add(row("Failed?", error={"code": 5}), conversation=talk)
    log.add(row("Second?"), conversation=talk)
    assert [r["question"] for r in log.last_conversation()] == ["First?", "Second?"]


def test_names_and_questions_that_are_no_utf8(home: Path) -> None:
    """Arguments are bytes; those that are no UTF-8 reach Python as lone surrogates."""
    log = QuestionLog()
    document = {"name": "a\udcff.md", "path": "/b/a\udcff.md", "sha256": "0"}
    log.add(row("Who\udcfe?", documents=[document]), conversation=None)
    (found,) = log.rows()
    assert found["documents"] == [document] and found["question"] == "Who\\udcfe?"


def lock(base: sqlite3.Connection) -> None:
    """Keep everybody else out."""
    base.execute("PRAGMA journal_mode = DELETE")
    base.execute("BEGIN EXCLUSIVE")


@pytest.mark.parametrize(
    "break_it",
    ["no database", "a directory", "no table", "no JSON", "locked"],
)
def test_a_log_that_cannot_be_read_is_named(
    cca: Cca, home: Path, monkeypatch: pytest.MonkeyPatch, break_it: str
) -> None:
    log = QuestionLog()
    log.add(row(), conversation=None)
    base = sqlite3.connect(log.path, isolation_level=None)
    if break_it == "no table":
        base.execute("DROP TABLE answers")
    elif break_it == "no JSON":
        base.execute("UPDATE answers SET documents = '{'")
    elif break_it == "locked":
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0}))
        lock(base)
    else:
        base.close()
        log.path.unlink()
        for side in log.path.parent.glob("*.sqlite3-*"):
            side.unlink()
        log.path.mkdir() if break_it == "a directory" else log.path.write_bytes(b"x" * 4096)
    for args in (["log"], ["log", "show", "1"], ["ask", "-c", "And?"]):
        code, out, err = cca(*args, "--json")
        assert (code, out) == (4, ""), args
        error = json.loads(err.splitlines()[-1])["error"]
        assert "the log cannot be read" in error["message"] and error["hint"]
    base.close()
