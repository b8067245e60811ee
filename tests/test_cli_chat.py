"""``cca chat`` on a tiny random model: pipes, a terminal, follow-ups. Answers are nonsense."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_cli.app import run
from cca_cli.question_log import QuestionLog

ROOT = Path(__file__).parents[1]
Chat = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    for name in ("CCA_CACHE_DIR", "CCA_LOG"):
        monkeypatch.delenv(name, raising=False)
    book = tmp_path / "book.md"
    book.write_text("# One\n\nThe nephew inherits the estate. The sister keeps the garden.\n")
    return book


@pytest.fixture
def chat(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Chat:
    """Run cca chat with these lines on standard input."""

    def call(lines: str, *args: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        code = run(["chat", *args, "-m", str(checkpoint), "--max-new-tokens", "3"])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[tuple[str, str]]]]:
    """Collect what the reader is asked, and what it is told was said before."""
    from cca_models.reading import Reader

    seen: list[tuple[str, list[tuple[str, str]]]] = []
    real = Reader.ask

    def spy(self: Reader, question: str, **options: Any) -> Any:
        seen.append((question, [(t.question, t.answer) for t in options["history"]]))
        return real(self, question, **options)

    monkeypatch.setattr(Reader, "ask", spy)
    return seen


def test_questions_from_a_pipe(chat: Chat, book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spied(monkeypatch)
    lines = "Who inherits the estate?\n\n  Who keeps the garden?  \nWho inherits?"
    code, out, _ = chat(lines, str(book), "--jsonl")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [r["question"] for r in records] == [
        "Who inherits the estate?", "Who keeps the garden?", "Who inherits?",
    ]  # fmt: skip
    assert {r["log"]["conversation"] for r in records} == {1}
    # Each is told of those before that were answered, of the last few at most.
    said = [(r["question"], r["answer"]) for r in records if r["found"] is not False]
    for i, (_, history) in enumerate(seen):
        before = [turn for turn in said if turn[0] in [r["question"] for r in records[:i]]]
        assert history == before[-2:]
    assert said


def test_text_shows_each_question_with_its_answer(chat: Chat, book: Path) -> None:
    code, out, err = chat("Which submarine exploded?\nWho inherits the estate?\n", str(book))
    assert code == 0 and out.startswith("Which submarine exploded?\nNot found in the document.\n\n")
    assert "\n\nWho inherits the estate?\n" in out
    assert "asking book.md" in err and "asking" not in out


def test_commands(chat: Chat, book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spied(monkeypatch)
    lines = "Who inherits the estate?\n/docs\n/help\n/what\n/new\nWhy?\n/quit\nNever asked?\n"
    code, out, err = chat(lines, str(book), "--jsonl")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [question for question, _ in seen] == ["Who inherits the estate?", "Why?"]
    assert seen[1][1] == [], "/new forgets"
    assert [r["log"]["conversation"] for r in records] == [1, 2]
    assert str(book) in err and "/quotes" in err and "/what is not known" in err


def test_quotes_can_be_hidden(chat: Chat, book: Path) -> None:
    quote = "The nephew inherits the estate"
    _, out, _ = chat("Who inherits the estate?\n", str(book))
    shown = f'"{quote}' in out
    _, out, _ = chat("/quotes\nWho inherits the estate?\n", str(book))
    assert shown and f'"{quote}' not in out


def test_several_documents_and_continue(
    chat: Chat, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = book.with_name("other.md")
    other.write_text("# Two\n\nThe bridge was closed.\n")
    first = json.loads(chat("Who inherits the estate?\n", str(book), str(other), "--jsonl")[1])
    assert [d["name"] for d in first["documents"]] == ["book.md", "other.md"]
    seen = spied(monkeypatch)
    again = json.loads(chat("And the garden?\n", "-c", "--jsonl")[1])
    assert [d["path"] for d in again["documents"]] == [str(book), str(other)]
    assert again["log"] == {"id": 2, "conversation": 1} and again["cache"]["hit"] is True
    assert seen[0][1] == ([] if first["found"] is False else [(first["question"], first["answer"])])


def test_a_question_that_fails_ends_nothing(chat: Chat, book: Path) -> None:
    long = "inherits " * 12_000
    code, out, err = chat(f"{long}\nWho?\n", str(book), "--read", "core", "--jsonl")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 9 and [r["error"] and r["error"]["code"] for r in records] == [5, None]
    assert "1 of 2" in err


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "no document"),
        (["-"], 2, "standard input"),
        (["absent.pdf"], 4, "absent.pdf"),
        (["-c"], 4, "log is empty"),
    ],
)
def test_wrong_usage(chat: Chat, book: Path, args: list[str], code: int, says: str) -> None:
    done, out, err = chat("Who?\n", *args)
    assert (done, out) == (code, "") and says in err and "hint: " in err


def test_nothing_is_asked(chat: Chat, book: Path) -> None:
    code, out, _ = chat("", str(book))
    assert (code, out) == (0, "") and QuestionLog().rows() == []


def test_on_a_terminal(book: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A prompt, an answer, Ctrl-C on a half-typed line, Ctrl-D; stdout is a file throughout."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels"))
    command = [
        sys.executable, "-m", "cca_cli", "chat", str(book), "-m", str(checkpoint),
        "--read", "lexical", "--max-new-tokens", "2",
    ]  # fmt: skip
    screen, terminal = pty.openpty()
    answers = tmp_path / "answers.txt"
    environment = {**os.environ, "PYTHONPATH": path, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    # This terminal does not say where its cursor stands.
    environment["PROMPT_TOOLKIT_NO_CPR"] = "1"
    with answers.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdin=terminal, stdout=out, stderr=terminal
        )
    os.close(terminal)
    try:
        _await(screen, _READY)
        os.write(screen, b"Which submarine exploded?\r")
        _await(screen, _READY)  # the next prompt comes after the answer
        os.write(screen, b"half a ques\x03")
        _await(screen, _READY)
        os.write(screen, b"\x04")
        _await(screen, _DONE)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(screen)
    assert answers.read_text() == "Not found in the document.\n\n"
    assert [row["question"] for row in QuestionLog().rows()] == ["Which submarine exploded?"]


# What a prompt sends when it begins to listen, and when it ends.
_READY, _DONE = b"\x1b[?2004h", b"\x1b[?2004l"


def _await(screen: int, text: bytes, *, seconds: float = 30) -> None:
    """Read what the terminal is sent until a text is there."""
    seen, end = b"", time.monotonic() + seconds
    while text not in seen and time.monotonic() < end:
        if select.select([screen], [], [], 0.05)[0]:
            seen += os.read(screen, 65536)
    assert text in seen, seen
