"""``cca ask`` on a tiny random model: shapes, codes, pipes. What it answers is nonsense."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_cli.app import run
from cca_cli.library import Library
from cca_cli.paths import library_dir
from cca_models.reading import NOT_FOUND

ROOT = Path(__file__).parents[1]
QUESTION = "Who inherits the estate?"
ELSEWHERE = "Which submarine exploded?"
Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document of two sections, and an empty home."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CCA_CACHE_DIR", raising=False)
    book = tmp_path / "shelf" / "book.md"
    book.parent.mkdir()
    weather = "The keeper wrote down the weather every evening. " * 40
    book.write_text(f"# One\n\n{weather}\n\n# Two\n\nThe nephew inherits the estate.\n")
    return book


@pytest.fixture
def ask(book: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run cca ask on the tiny model; answers are a few tokens long."""

    def call(*args: str, tokens: int = 6) -> tuple[int, str, str]:
        code = run(["ask", *args, "-m", str(checkpoint), "--max-new-tokens", str(tokens)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def entries() -> int:
    return len(Library(library_dir()).directories())


@pytest.mark.parametrize("read", ["focus", "core", "lexical"])
def test_json_has_the_promised_shape(ask: Ask, book: Path, read: str) -> None:
    code, out, _ = ask(str(book), QUESTION, "--json", "--read", read)
    record = json.loads(out)
    assert code == 0
    assert {
        "schema_version", "id", "question", "answer", "found", "citations", "documents", "model",
        "cache", "usage", "timing_s", "truncated", "warnings", "error",
    } <= set(record)  # fmt: skip
    assert (record["id"], record["question"], record["read"]) == ("1", QUESTION, read)
    assert record["schema_version"] == 1 and isinstance(record["answer"], str)
    assert record["found"] in (True, False, None) and record["error"] is record["truncated"] is None
    (document,) = record["documents"]
    assert document["path"] == str(book) and len(document["sha256"]) == 64
    assert document["pages"] == 2 and document["warnings"] == []
    model = record["model"]
    assert (model["name"], model["attention"], model["adapted"]) == ("tiny", "cca", False)
    assert len(model["fingerprint"]) == 64 and model["dtype"] and model["device"]
    assert set(record["usage"]) == {"prompt_tokens", "cached_tokens", "new_tokens"}
    timing = record["timing_s"]
    assert all(isinstance(seconds, float) and seconds >= 0 for seconds in timing.values())
    assert {"model_load", "total"} <= set(timing)
    if read == "lexical":
        assert record["cache"] is None and document["tokens"] is None
    else:
        assert {"hit", "reason", "bytes", "entry"} == set(record["cache"])
        assert record["cache"]["hit"] is False and record["cache"]["bytes"] > 0
        assert document["tokens"] > 500 and timing["prefill"] > 0
    for citation in record["citations"]:
        assert {"doc", "page", "page_label", "quote", "start", "end", "verified"} <= set(citation)
        assert citation["verified"] and citation["doc"] == "book.md"
        assert " ".join(citation["quote"].split()) in " ".join(book.read_text().split())
        assert citation["end"] - citation["start"] == len(citation["quote"])


@pytest.mark.parametrize("read", ["focus", "core"])
def test_hit_and_miss_answer_alike(ask: Ask, book: Path, read: str) -> None:
    def answer(*options: str) -> dict[str, Any]:
        _, out, _ = ask(str(book), QUESTION, "--json", "--read", read, *options, tokens=24)
        record: dict[str, Any] = json.loads(out)
        return record

    records = [answer("--cache", cache) for cache in ("off", "use", "use", "require")]
    assert [record["cache"]["hit"] for record in records] == [False, False, True, True]
    assert records[0]["usage"]["new_tokens"] > 0
    for record in records[1:]:
        for key in ("answer", "found", "citations", "usage", "finish"):
            assert record[key] == records[0][key]


def test_the_answer_goes_to_stdout_and_the_rest_to_stderr(ask: Ask, book: Path) -> None:
    code, out, err = ask(str(book), QUESTION, "--no-quotes")
    record = json.loads(ask(str(book), QUESTION, "--json")[1])
    assert code == 0 and out.startswith(record["answer"] + "\n")
    assert "book.md" in err and "book.md" not in out
    assert "cca" not in out.removeprefix(record["answer"])


def test_not_found(ask: Ask, book: Path) -> None:
    for options, code in (((), 0), (("--fail-if-not-found",), 3)):
        done, out, _ = ask(str(book), ELSEWHERE, *options)
        assert (done, out.strip()) == (code, NOT_FOUND)
    _, out, _ = ask(str(book), ELSEWHERE, "--json")
    record = json.loads(out)
    assert record["found"] is False and record["citations"] == []
    code, out, _ = ask(str(book), "-Q", QUESTION, "-Q", ELSEWHERE, "--fail-if-not-found", "--json")
    assert code == 3 and len(json.loads(out)["answers"]) == 2


def test_lexical_leaves_nothing_in_the_library(ask: Ask, book: Path) -> None:
    assert ask(str(book), QUESTION, "--read", "lexical")[0] == 0
    assert ask(str(book), QUESTION, "--cache", "off")[0] == 0
    assert entries() == 0
    assert ask(str(book), QUESTION)[0] == 0
    assert entries() == 1


def test_a_memory_that_is_required(ask: Ask, book: Path) -> None:
    code, out, err = ask(str(book), QUESTION, "--cache", "require")
    assert (code, out, entries()) == (8, "", 0)
    assert "not in the library" in err and "hint: cca ingest" in err
    code, _, err = ask(str(book), QUESTION, "--cache", "require", "--json")
    assert json.loads(err.splitlines()[-1])["error"]["code"] == code == 8


def test_several_questions(ask: Ask, book: Path, tmp_path: Path) -> None:
    plain = tmp_path / "questions.txt"
    plain.write_text(f"\ufeff{QUESTION}\n\n  What did the keeper write?  \r\n", encoding="utf-8")
    lines = tmp_path / "questions.jsonl"
    lines.write_text(
        json.dumps({"id": "a7", "question": ELSEWHERE})
        + '\n{"question": "Who\u2028inherits?"}\n{"id": null, "question": "Which garden?"}\n'
        + '{"id": 12, "question": "Which lamp?", "answer": "none"}\n',
        encoding="utf-8",
    )
    code, out, _ = ask(
        str(book), "First?", "-Q", "Second?", "--questions", str(plain), "--jsonl", tokens=2
    )
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [r["id"] for r in records] == ["1", "2", "3", "4"]
    texts = ["First?", "Second?", QUESTION, "What did the keeper write?"]
    assert [r["question"] for r in records] == texts
    code, out, _ = ask(str(book), "--questions", str(lines), "--json", tokens=2)
    answers = json.loads(out)["answers"]
    assert code == 0 and [r["id"] for r in answers] == ["a7", "2", "3", "12"]
    assert answers[1]["question"] == "Who\u2028inherits?"
    _, out, _ = ask(str(book), "-Q", ELSEWHERE, "-Q", "Which submarine?", tokens=2)
    assert out.split("\n\n")[1].startswith("Which submarine?\n")


def test_warnings_belong_to_their_answer(ask: Ask, book: Path) -> None:
    options = ["-Q", QUESTION, "-Q", ELSEWHERE, "--read", "core", "--jsonl"]
    _, out, _ = ask(str(book), *options, tokens=2)
    first, second = (json.loads(line)["warnings"] for line in out.splitlines())
    assert sum("not adapted" in text for text in first) == 1
    assert sum("not adapted" in text for text in second) == 1


def test_a_question_that_is_too_long_does_not_stop_the_others(ask: Ask, book: Path) -> None:
    # Straight to the memory, which was made for questions of ordinary length.
    long, core = "inherits " * 12_000, ("--read", "core")
    code, out, err = ask(str(book), long, *core, "--json")
    assert (code, out) == (5, "") and json.loads(err.splitlines()[-1])["error"]["code"] == 5
    code, out, _ = ask(str(book), "-Q", long, "-Q", QUESTION, *core, "--jsonl")
    first, second = (json.loads(line) for line in out.splitlines())
    assert code == 9 and first["error"]["code"] == 5 and first["answer"] is None
    assert second["error"] is None and second["answer"]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "no question"),
        ([" "], 2, "empty"),
        (["-Q", ""], 2, "empty"),
        ([QUESTION, "--passages", "0"], 2, "--passages"),
        ([QUESTION, "--temperature", "-1"], 2, "--temperature"),
        ([QUESTION, "--top-p", "2"], 2, "--top-p"),
        ([QUESTION, "--read", "guess"], 2, "--read"),
        ([QUESTION, "--json", "--jsonl"], 2, "exclude"),
        (["--questions", "absent.txt"], 4, "absent.txt"),
    ],
    ids=str,
)
def test_wrong_usage(ask: Ask, book: Path, args: list[str], code: int, says: str) -> None:
    done, out, err = ask(str(book), *args)
    assert (done, out) == (code, "")
    assert says in err and ("hint: " in err or "--json" in args)
    assert entries() == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no question"),
        (b"\n \n", "no question"),
        (b'Who?\n{"id": 3}\n', "line 2: no field question"),
        (b'{"question": ""}\n', "line 1"),
        (b'{"question": 7}\n', "line 1"),
        (b'{"question": "Who?"\n', "line 1"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_bad_question_files(
    ask: Ask, book: Path, tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "questions.txt"
    file.write_bytes(content)
    code, out, err = ask(str(book), "--questions", str(file))
    assert (code, out) == (4, "")
    assert "questions.txt" in err and says in err and "hint: " in err


def test_documents_that_cannot_be_read(ask: Ask, book: Path) -> None:
    (book.parent / "empty.txt").write_bytes(b"")
    for name in ("absent.pdf", "empty.txt"):
        for read in ("focus", "lexical"):
            code, out, err = ask(str(book.parent / name), QUESTION, "--read", read)
            assert (code, out) == (4, "") and "hint: " in err
    assert entries() == 0


@pytest.mark.parametrize("read", ["focus", "lexical"])
def test_standard_input(ask: Ask, book: Path, monkeypatch: pytest.MonkeyPatch, read: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(book.read_bytes())))
    code, out, _ = ask("-", QUESTION, "--json", "--read", read)
    record = json.loads(out)
    assert code == 0 and record["documents"][0]["path"] == "-"
    assert record["documents"][0]["sha256"] == hashlib.sha256(book.read_bytes()).hexdigest()


def test_samples_are_those_of_the_seed(ask: Ask, book: Path) -> None:
    def sample(seed: int) -> str:
        options = ["--temperature", "1.5", "--seed", str(seed), "--json"]
        _, out, _ = ask(str(book), QUESTION, *options, tokens=12)
        return str(json.loads(out)["answer"])

    drawn = [sample(seed) for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_reader_that_leaves_early(book: Path, checkpoint: Path) -> None:
    """cca ask ... | head -c1, in a process of its own."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels"))
    command = [
        sys.executable, "-m", "cca_cli", "ask", "-", QUESTION, "-Q", ELSEWHERE, "-Q", "Which lamp?",
        "-m", str(checkpoint), "--read", "lexical", "--quiet",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(book.read_bytes())
    process.stdin.close()
    assert len(process.stdout.read(1)) == 1
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0
