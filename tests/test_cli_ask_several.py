"""``cca ask``: several documents, follow-ups, dry runs, maps, questions from a pipe."""

from __future__ import annotations

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
from cca_cli.inputs import split_arguments, unique_names
from cca_cli.library import Library
from cca_cli.paths import library_dir
from cca_cli.question_log import QuestionLog

ROOT = Path(__file__).parents[1]
QUESTION = "Who inherits the estate?"
Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two documents, and an empty home."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    for name in ("CCA_CACHE_DIR", "CCA_LOG"):
        monkeypatch.delenv(name, raising=False)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "may.md").write_text("# May\n\nThe lamp was lit. The nephew inherits the estate.\n")
    (shelf / "june.md").write_text(
        "# June\n\nThe bridge was closed. The sister keeps the garden.\n"
    )
    monkeypatch.chdir(shelf)
    return shelf


@pytest.fixture
def ask(shelf: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run cca ask on the tiny model; answers are a few tokens long."""

    def call(*args: str, tokens: int = 4, model: bool = True) -> tuple[int, str, str]:
        capsys.readouterr()
        chosen = ["-m", str(checkpoint)] if model else []
        code = run(["ask", *args, *chosen, "--max-new-tokens", str(tokens)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def entries() -> int:
    return len(Library(library_dir()).directories())


def test_several_documents(ask: Ask, shelf: Path) -> None:
    code, out, _ = ask("may.md", "june.md", QUESTION, "--json")
    record = json.loads(out)
    assert code == 0 and record["question"] == QUESTION
    assert [d["name"] for d in record["documents"]] == ["may.md", "june.md"]
    assert [d["path"] for d in record["documents"]] == [
        str(shelf / n) for n in ("may.md", "june.md")
    ]
    assert record["cache"]["hit"] is False and record["cache"]["entry"] is None
    assert record["cache"]["bytes"] == sum(d["cache"]["bytes"] for d in record["documents"])
    assert entries() == 2
    # Each was read by itself: any two of them, in any order, are there already.
    (shelf / "july.md").write_text("# July\n\nIt was hot.\n")
    record = json.loads(ask("june.md", "july.md", QUESTION, "--json")[1])
    assert [d["cache"]["hit"] for d in record["documents"]] == [True, False]
    assert record["cache"]["hit"] is False and "not in the library" in record["cache"]["reason"]
    record = json.loads(ask("july.md", "may.md", "june.md", QUESTION, "--json")[1])
    assert record["cache"]["hit"] is True and record["cache"]["reason"] is None


def test_citations_name_the_file(ask: Ask, shelf: Path) -> None:
    _, out, _ = ask("may.md", "june.md", "Who keeps the garden?", "--json", "--read", "lexical")
    record = json.loads(out)
    for citation in record["citations"]:
        text = (shelf / citation["doc"]).read_text()
        assert citation["quote"] in text and citation["path"] == str(shelf / citation["doc"])
    assert record["citations"]
    _, out, _ = ask("may.md", "june.md", "Who keeps the garden?", "--read", "lexical")
    assert any(f"{name}, section 1" in out for name in ("may.md", "june.md"))
    _, out, _ = ask("june.md", "Who keeps the garden?", "--read", "lexical")
    assert "section 1" in out and "june.md" not in out


def test_folders_and_patterns(ask: Ask, shelf: Path) -> None:
    for given in (["."], ["*.md"], ["june.md", "."], [str(shelf), "m*.md"]):
        code, out, _ = ask(*given, QUESTION, "--json", "--read", "lexical")
        names = [d["name"] for d in json.loads(out)["documents"]]
        assert code == 0 and sorted(names) == ["june.md", "may.md"]


def test_one_missing_document_fails_the_call(ask: Ask) -> None:
    code, out, err = ask("may.md", "absent.pdf", "-Q", QUESTION)
    assert (code, out) == (4, "") and "absent.pdf" in err and entries() == 0


def test_core_answers_from_one_memory(ask: Ask) -> None:
    code, out, err = ask("may.md", "june.md", QUESTION, "--read", "core")
    assert (code, out) == (2, "") and "2 documents" in err and "hint: --read focus" in err


@pytest.mark.parametrize(
    ("given", "elsewhere", "continued", "expected"),
    [
        (["may.md", "Who?"], False, False, (["may.md"], "Who?")),
        (["may.md", "june.md", "Who?"], False, False, (["may.md", "june.md"], "Who?")),
        (["may.md", "june.md"], True, False, (["may.md", "june.md"], None)),
        (["may.md", "./may.md"], True, False, (["may.md"], None)),
        (["absent.pdf"], False, False, (["absent.pdf"], None)),
        (["may.md", "*.md"], True, False, (["may.md", "*.md"], None)),
        (["*.md", "Which one: [a] or *?"], False, False, (["*.md"], "Which one: [a] or *?")),
        (["may.md", "absent.pdf"], True, False, (["may.md", "absent.pdf"], None)),
        (["may.md", "shelf/absent"], True, False, (["may.md", "shelf/absent"], None)),
        (["may.md", "First?"], True, False, (["may.md"], "First?")),
        (["-", "Who?"], False, False, (["-"], "Who?")),
        (["And then?"], False, True, ([], "And then?")),
        (["may.md", "And then?"], False, True, (["may.md"], "And then?")),
        ([], True, True, ([], None)),
    ],
    ids=str,
)  # fmt: skip
def test_arguments(
    shelf: Path, given: list[str], elsewhere: bool, continued: bool, expected: Any
) -> None:
    assert split_arguments(given, asked_elsewhere=elsewhere, continued=continued) == expected


def test_arguments_that_nobody_understands(ask: Ask) -> None:
    code, out, err = ask("may.md", "june.md")
    assert (code, out) == (2, "") and "june.md is a file" in err and "-Q" in err
    code, _, err = ask()
    assert code == 2 and "no document" in err


def test_a_question_alone_asks_standard_input(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"The lamp was lit.\n")))
    record = json.loads(ask("What was lit, then?", "--json", "--read", "lexical")[1])
    assert record["documents"][0]["path"] == "-" and record["question"] == "What was lit, then?"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/may.md", "/a/june.md"], ["may.md", "june.md"]),
        (["/a/x.md", "/b/x.md", "-"], ["a/x.md", "b/x.md", "stdin"]),
        (["/a/s/x.md", "/b/s/x.md"], ["a/s/x.md", "b/s/x.md"]),
        (["/x.md"], ["x.md"]),
    ],
)
def test_names_tell_files_apart(paths: list[str], names: list[str]) -> None:
    assert unique_names(paths) == names


def test_continue(ask: Ask, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = json.loads(ask("may.md", "june.md", QUESTION, "--json", "--pages", "1")[1])
    seen: list[Any] = []
    from cca_models.reading import Reader

    real = Reader.ask

    def spy(self: Reader, question: str, **options: Any) -> Any:
        seen.append((question, options["history"], options["read"]))
        return real(self, question, **options)

    monkeypatch.setattr(Reader, "ask", spy)
    monkeypatch.chdir(shelf.parent)
    # Neither documents, pages nor model are named again, nor is the directory the same.
    code, out, _ = ask("-c", "And when?", "--json", model=False)
    record = json.loads(out)
    assert code == 0 and record["cache"]["hit"] is True
    assert [d["path"] for d in record["documents"]] == [d["path"] for d in first["documents"]]
    assert record["model"]["fingerprint"] == first["model"]["fingerprint"]
    ((question, history, _),) = seen
    expected = [] if first["found"] is False else [(QUESTION, first["answer"])]
    assert question == "And when?" and [(t.question, t.answer) for t in history] == expected
    conversation = first["log"]["conversation"]
    assert record["log"] == {"id": 2, "conversation": conversation}
    assert [r["settings"]["pages"] for r in QuestionLog().rows()] == ["1", "1"]
    # What is said on the command line counts.
    record = json.loads(ask("-c", "Why?", "--json", "--read", "lexical")[1])
    assert record["read"] == seen[-1][2] == "lexical" and len(seen[-1][1]) <= 2
    # A new question begins a new conversation.
    record = json.loads(ask(str(shelf / "may.md"), QUESTION, "--json")[1])
    assert seen[-1][1] == [] and record["log"]["conversation"] == record["log"]["id"] == 4


def test_continue_says_that_a_document_changed(ask: Ask, shelf: Path) -> None:
    ask("may.md", QUESTION)
    err = ask("-c", "And then?")[2]
    assert "has changed" not in err and "following on about may.md" in err
    (shelf / "may.md").write_text("# May\n\nAnother lamp.\n")
    assert "may.md has changed since the conversation began" in ask("-c", "And then?")[2]


def test_nothing_to_continue(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ask("-c", "And then?")
    assert (code, out) == (4, "") and "log is empty" in err and "hint: " in err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"The lamp was lit.\n")))
    assert ask("-", QUESTION, "--read", "lexical")[0] == 0
    code, out, err = ask("-c", "And then?")
    assert (code, out) == (4, "") and "standard input" in err
    monkeypatch.setenv("CCA_LOG", "off")
    code, _, err = ask("-c", "And then?")
    assert code == 4 and "log is off" in err


def test_dry_run(ask: Ask) -> None:
    code, out, _ = ask("may.md", "june.md", QUESTION, "--dry-run", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["dry_run"] is True and facts["questions"] == 1
    may, june = facts["documents"]
    for one in (may, june):
        assert one["tokens"] > 10 and one["fits"] and 0 < one["share"] < 1
        assert one["kv_bytes_dense"] > 0 and one["kv_bytes_cca"] > 0 and one["disk_bytes"] > 0
        assert one["cache"] == {"hit": False, "reason": "not in the library"}
    total = facts["total"]
    assert total["tokens"] == may["tokens"] + june["tokens"]
    assert total["new_disk_bytes"] == may["disk_bytes"] + june["disk_bytes"]
    assert total["prefill_seconds"] > 0 and entries() == 0 and QuestionLog().rows() == []
    ask("may.md", QUESTION)
    facts = json.loads(ask("may.md", "june.md", "--dry-run", "--json")[1])
    assert [one["cache"]["hit"] for one in facts["documents"]] == [True, False]
    assert facts["total"]["new_disk_bytes"] == june["disk_bytes"] and facts["questions"] == 0
    code, out, _ = ask("may.md", "june.md", "-n", "-Q", QUESTION)
    assert code == 0 and "would be read\t1 of 2" in out and "would be asked\t1 question\n" in out
    _, out, _ = ask("june.md", QUESTION, "-n", "--read", "lexical")
    assert "no memory is needed" in out and entries() == 1


def test_dry_run_says_how_much_disk_a_memory_takes(ask: Ask) -> None:
    planned = json.loads(ask("may.md", "--dry-run", "--json")[1])["documents"][0]
    record = json.loads(ask("may.md", QUESTION, "--json")[1])
    assert record["documents"][0]["tokens"] == planned["tokens"]
    # An entry holds a manifest and file headers besides.
    assert 0 <= record["cache"]["bytes"] - planned["disk_bytes"] < 20_000


def test_several_as_json_with_one_that_fails(ask: Ask) -> None:
    long = "inherits " * 12_000
    code, out, err = ask("may.md", "-Q", long, "-Q", QUESTION, "--read", "core", "--json")
    answers = json.loads(out)["answers"]
    assert code == 9 and [a["error"] and a["error"]["code"] for a in answers] == [5, None]
    assert json.loads(err.splitlines()[-1])["error"]["code"] == 9
    assert [r["error"] is None for r in QuestionLog().rows()] == [True, False]


def test_questions_from_a_pipe(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b'\xef\xbb\xbf{"id": "a", "question": "Who?"}\n\n{"id": "b"}\nWhat?\n{"question": 7}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    code, out, _ = ask("may.md", "--questions", "-", "--jsonl", "--read", "lexical")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 9 and [r["id"] for r in records] == ["a", "b", "3", "4"]
    assert [r["error"] and r["error"]["code"] for r in records] == [None, 4, None, 4]
    assert "line 3: no field question" in records[1]["error"]["message"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    code, out, err = ask("may.md", "--questions", "-", "--read", "lexical")
    assert (code, out) == (4, "") and "no question" in err
    code, _, err = ask("-", "--questions", "-")
    assert code == 2 and "standard input" in err


def test_each_answer_is_there_before_the_next_question(shelf: Path, checkpoint: Path) -> None:
    """Another program asks, waits for the answer, and asks on."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels"))
    command = [
        sys.executable, "-m", "cca_cli", "ask", "may.md", "--questions", "-", "--jsonl",
        "-m", str(checkpoint), "--read", "lexical", "-q", "--max-new-tokens", "2",
    ]  # fmt: skip
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout
        for question in ("Who inherits?", "What was lit?"):
            process.stdin.write(question + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["question"] == question
        process.stdin.close()
        assert process.stdout.read() == "" and process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--map", "out.jpeg"], "must end in"),
        (["--map", "absent/out.png"], "no directory"),
        (["--map", "out.png", "--read", "lexical"], "uses none"),
    ],
)
def test_maps_that_cannot_be_drawn(ask: Ask, args: list[str], says: str) -> None:
    code, out, err = ask("may.md", QUESTION, *args)
    assert (code, out) == (2, "") and says in err and "hint: " in err and entries() == 0


def test_maps_need_matplotlib(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cca_cli.extras.find_spec", lambda name: None)
    code, out, err = ask("may.md", QUESTION, "--map", "out.png")
    assert (code, out) == (7, "") and "matplotlib" in err and "cca[plot]" in err


@pytest.mark.parametrize("read", ["focus", "core"])
def test_maps(ask: Ask, shelf: Path, read: str) -> None:
    pytest.importorskip("matplotlib")
    documents = ["may.md"] if read == "core" else ["may.md", "june.md"]
    code, out, _ = ask(*documents, f"{QUESTION} $x$", "--map", "out.png", "--read", read, "--json")
    assert code == 0 and json.loads(out)["map"] == "out.png"
    assert (shelf / "out.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = ask("may.md", "-Q", "Who?", "-Q", "灯台?", "--map", "q.svg", "--jsonl")
    assert code == 0 and [json.loads(x)["map"] for x in out.splitlines()] == ["q-1.svg", "q-2.svg"]
    assert "<svg" in (shelf / "q-2.svg").read_text() and not (shelf / "q.svg").exists()
    assert "Glyph" not in err
