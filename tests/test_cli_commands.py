"""ingest, count, docs, models and doctor on a tiny checkpoint, with the real engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from tiny_checkpoint import make_tiny_checkpoint

from cca_cli import ingestion
from cca_cli.app import run
from cca_cli.console import Console
from cca_cli.dry_run import kept_tokens, key_value_bytes
from cca_cli.library import Library
from cca_cli.paths import library_dir

ROOT = Path(__file__).parents[1]
Cca = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA with a context of 4,096 tokens."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_checkpoint(path, context=4096)
    return path


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with documents, and an empty home."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CCA_CACHE_DIR", raising=False)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    lines = [f"{i} The nephew inherits the estate." for i in range(400)]
    (shelf / "book.txt").write_text("\n".join(lines))
    (shelf / "note.md").write_text("# One\n\nThe keeper wrote.\n\n# Two\n\nThe lamp was lit.\n")
    return shelf


@pytest.fixture
def cca(shelf: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Cca:
    """Run a command line; commands that take a model get the tiny one."""

    def call(*args: str) -> tuple[int, str, str]:
        model = ["-m", str(checkpoint)] if args[0] in ("ingest", "count") else []
        code = run([*args, *model])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_ingest_then_again(cca: Cca, shelf: Path) -> None:
    book = str(shelf / "book.txt")
    code, out, err = cca("ingest", book)
    assert code == 0 and out.startswith("book.txt: read in ")
    assert "book.txt: not in the library; reading takes about" in err
    code, out, err = cca("ingest", book)
    assert (code, err) == (0, "") and out.startswith("book.txt: already in the library (")
    code, out, _ = cca("ingest", book, "--force")
    assert code == 0 and out.startswith("book.txt: read in ")


def test_ingest_json(cca: Cca, shelf: Path) -> None:
    code, out, _ = cca("ingest", str(shelf / "book.txt"), str(shelf / "note.md"), "--json")
    record, other = json.loads(out)["documents"]
    assert code == 0 and other["doc"] == "note.md"
    assert record["cache"]["hit"] is False and record["cache"]["reason"] == "not in the library"
    assert record["cache"]["bytes"] > 0 and record["error"] is None
    assert record["model"]["name"] == "tiny" and record["model"]["attention"] == "cca"
    assert record["timing_s"]["total"] >= record["timing_s"]["prefill"] > 0


def test_one_bad_file_does_not_stop_the_rest(cca: Cca, shelf: Path) -> None:
    empty = shelf / "empty.txt"
    empty.write_bytes(b"")
    files = [str(shelf / "absent.pdf"), str(empty), str(shelf / "note.md")]
    code, out, err = cca("ingest", *files)
    assert code == 9
    assert out.startswith("note.md: read in")
    assert "absent.pdf: no such file" in err and "empty.txt: file is empty" in err
    assert "cca: error: 2 of 3 documents could not be read" in err

    code, out, err = cca("ingest", *files, "--jsonl")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["error"]["code"] if line["error"] else 0 for line in lines] == [4, 4, 0]
    assert code == 9 and json.loads(err.splitlines()[-1])["error"]["code"] == 9


def test_a_single_bad_file_has_its_own_code(cca: Cca, shelf: Path) -> None:
    assert cca("ingest", str(shelf / "absent.pdf"))[0] == 4


def test_a_wrong_model_stops_all(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(shelf / "book.txt"), str(shelf / "note.md")]
    assert run(["ingest", *files, "-m", str(shelf), "--offline"]) == 6
    out, err = capsys.readouterr()
    assert out == "" and err.count("cca: error:") == 1 and "hint: " in err


def test_window_and_group_size_that_contradict(cca: Cca, shelf: Path) -> None:
    code, _, err = cca("ingest", str(shelf / "note.md"), "--window", "8")
    assert code == 2 and "--window 8 is smaller than --group-size 16" in err


def test_other_settings_are_another_entry(cca: Cca, shelf: Path) -> None:
    note = str(shelf / "note.md")
    cca("ingest", note)
    _, out, _ = cca("ingest", note, "--group-size", "8", "--json")
    assert json.loads(out)["documents"][0]["cache"]["reason"] == "read with group_size 16"
    assert len(list(Library(library_dir()).entries())) == 2


def test_too_long(cca: Cca, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cca_models.engine import LanguageModel

    monkeypatch.setattr(LanguageModel, "max_tokens", 12_000)
    (shelf / "long.txt").write_text("\n\n".join(["word " * 500] * 40))
    code, out, err = cca("ingest", str(shelf / "long.txt"))
    assert code == 5 and out == ""
    assert "model allows 12,000 (" in err and "hint: --pages 1-" in err


def test_hit_and_miss_give_the_same_memory(shelf: Path, checkpoint: Path) -> None:
    import torch

    from cca_cli.model_loading import open_model

    console = Console()
    model = open_model(console, str(checkpoint))

    def logits() -> torch.Tensor:
        opened = ingestion.open_document(str(shelf / "book.txt"), model, console=console)
        hits.append(opened.hit)
        return model.prefill(opened.memory.fork(), model.tokenizer.encode("Who inherits?"))

    hits: list[bool] = []
    first, second = logits(), logits()
    assert hits == [False, True]
    assert torch.equal(first, second)


def test_an_interrupted_memory_goes_on_as_if_nothing_had_happened(
    shelf: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from cca_cli.model_loading import open_model
    from cca_models.engine import LanguageModel

    console = Console()
    model = open_model(console, str(checkpoint), group_size=4, window=64)
    book = str(shelf / "book.txt")
    prefill = LanguageModel.prefill

    def in_small_chunks(self: LanguageModel, memory: Any, ids: Any, **options: Any) -> Any:
        return prefill(self, memory, ids, **{**options, "chunk": 256})

    monkeypatch.setattr(LanguageModel, "prefill", in_small_chunks)
    whole = ingestion.open_document(book, model, console=console, cache="off")

    def press(self: LanguageModel, memory: Any, ids: Any, *, on_chunk: Any, **rest: Any) -> Any:
        def and_press(done: int, total: int) -> None:
            if done == 1024:
                os.kill(os.getpid(), signal.SIGINT)
            on_chunk(done, total)

        return in_small_chunks(self, memory, ids, on_chunk=and_press)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "prefill", press)
        with pytest.raises(KeyboardInterrupt):
            ingestion.open_document(book, model, console=console)
    assert [row["done"] for row in Library(library_dir()).listing()] == [1024]
    resumed = ingestion.open_document(book, model, console=console)
    assert resumed.reason == "an earlier run was interrupted"
    question = model.tokenizer.encode("Who inherits?")
    a, b = (model.prefill(opened.memory, question) for opened in (whole, resumed))
    assert torch.allclose(a, b, atol=1e-5)


def test_a_killed_ingest_leaves_nothing_that_looks_finished(
    cca: Cca, shelf: Path, checkpoint: Path
) -> None:
    script = (
        "import os, signal, sys\n"
        "from cca_cli import library_draft\n"
        "def die(*args): os.kill(os.getpid(), signal.SIGKILL)\n"
        "library_draft.write_json = lambda path, value: (\n"
        "    die() if path.name == 'manifest.json' else write(path, value))\n"
        "from cca_cli.library_files import write_json as write\n"
        "from cca_cli.app import run; run(sys.argv[1:])\n"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels", "tests"))
    killed = subprocess.run(
        [sys.executable, "-c", script, "ingest", str(shelf / "book.txt"), "-m", str(checkpoint)],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert list(Library(library_dir()).entries()) == []
    code, _, _ = cca("ingest", str(shelf / "book.txt"))
    assert code == 0
    assert len(Library(library_dir()).directories()) == 1


def test_work_outside_the_main_thread_needs_no_signals(shelf: Path, checkpoint: Path) -> None:
    from cca_cli.model_loading import open_model

    model = open_model(Console(), str(checkpoint))
    results: list[bool] = []

    def work() -> None:
        opened = ingestion.open_document(str(shelf / "note.md"), model, console=Console())
        results.append(opened.hit)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [False]


def test_count(cca: Cca, shelf: Path) -> None:
    code, out, _ = cca("count", str(shelf / "book.txt"), "--json")
    facts = json.loads(out)
    assert (
        code == 0
        and facts["fits"]
        and facts["cache"]
        == {
            "hit": False,
            "reason": "not in the library",
        }
    )
    _, out, _ = cca("ingest", str(shelf / "book.txt"), "--json")
    record = json.loads(out)["documents"][0]
    assert record["tokens"] == facts["tokens"]
    assert record["cache"]["bytes"] == pytest.approx(facts["disk_bytes"], rel=0.1)
    code, out, _ = cca("count", str(shelf / "book.txt"))
    assert code == 0 and "library\tthere already" in out
    assert out.startswith(f"book.txt: {record['pages']} section")


def test_count_several(cca: Cca, shelf: Path) -> None:
    code, out, _ = cca("count", str(shelf))
    header, *rows = (line.split("\t") for line in out.splitlines())
    assert code == 0 and [row[0] for row in rows] == ["book.txt", "note.md"]
    assert dict(zip(header, rows[0], strict=True))["library"] == "not in the library"

    code, out, err = cca("count", str(shelf / "*.md"), str(shelf / "absent.pdf"), "--json")
    note, absent = json.loads(out)["documents"]
    assert code == 9 and note["doc"] == "note.md" and note["error"] is None
    assert absent["error"]["code"] == 4 and "absent.pdf: no such file" in err

    code, out, _ = cca("count", str(shelf), "--jsonl")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and records[1] == {**note, "schema_version": 1, "prefill_seconds": ANY}
    assert cca("count", str(shelf / "absent.pdf"))[0] == 4
    assert cca("count", "-", "-")[0] == 2


def test_counted_bytes_are_those_of_the_tensors(shelf: Path, checkpoint: Path) -> None:
    from cca_cli.model_loading import open_model

    model = open_model(Console(), str(checkpoint), group_size=8, window=128)
    per_token = key_value_bytes(model.checkpoint.config, model.dtype.itemsize)
    for tokens in (5, 128, 3001):
        memory = model.new_memory(tokens)
        model.prefill(memory, [1] * tokens)
        counted = per_token * kept_tokens(tokens, group_size=8, window=128)
        # The engine may keep a group of raw tokens more than the next query sees.
        assert 0 <= memory.nbytes - counted <= per_token * 8


def test_docs(cca: Cca, shelf: Path) -> None:
    note = shelf / "note.md"
    assert cca("docs", "ls", "--json")[1] == '{\n  "schema_version": 1,\n  "documents": []\n}\n'
    cca("ingest", str(note), str(shelf / "book.txt"))
    rows = json.loads(cca("docs", "ls", "--json")[1])["documents"]
    assert {row["name"] for row in rows} == {"note.md", "book.txt"}
    header, *lines = cca("docs", "ls")[1].splitlines()
    assert header.split("\t")[0] == "name" and len(lines) == 2

    key = next(row["key"] for row in rows if row["name"] == "note.md")
    for query in ("note.md", str(note), key[:8]):
        code, out, _ = cca("docs", "show", query)
        assert code == 0 and f"key\t{key}" in out and "outline\tOne" in out
    code, out, _ = cca("docs", "show", "note.md", "--page", "2")
    assert code == 0 and "The lamp was lit." in out
    page = json.loads(cca("docs", "show", "note.md", "--page", "2", "--json")[1])
    assert page["number"] == 2 and page["tokens"] > 0
    assert cca("docs", "show", "note.md", "--page", "99")[0] == 4
    assert cca("docs", "show", "absent.md")[0] == 4

    assert cca("docs", "rm", "absent.md")[0] == 4
    code, out, err = cca("docs", "rm", "note.md")
    assert (code, out) == (0, "") and err.startswith("removed 1 entr")
    assert cca("docs", "show", "note.md")[0] == 4
    assert cca("docs", "rm", "--all", "--json")[0] == 0
    assert Library(library_dir()).directories() == []


def test_docs_verify(cca: Cca, shelf: Path) -> None:
    cca("ingest", str(shelf / "note.md"))
    assert cca("docs", "verify")[0] == 0
    (entry,) = Library(library_dir()).entries()
    content = bytearray(entry.memory_path.read_bytes())
    content[-1] ^= 1
    entry.memory_path.write_bytes(content)
    code, out, err = cca("docs", "verify")
    assert code == 8 and "is not what was written" in out and "cca docs rm" in err


def test_models(cca: Cca, checkpoint: Path, tmp_path: Path) -> None:
    root = cca("models", "path")[1].strip()
    assert root.startswith(str(tmp_path))
    code, out, _ = cca("models", "path", str(checkpoint))
    assert code == 0 and out.strip() == str(checkpoint)
    assert json.loads(cca("models", "ls", "--json")[1])["models"] == []
    assert cca("models", "rm", "absent")[0] == 6
    assert cca("models", "path", "smollm2-135m-instruct")[0] == 6


def test_doctor(cca: Cca) -> None:
    code, out, err = cca("doctor", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["check"] == "ok" and facts["free_bytes"] > 0
    assert facts["devices"][0]["name"] == "cpu" and facts["packages"]["torch"]
    assert facts["default_model"] is None and "cca models pull" in facts["advice"][0]
    code, out, err = cca("doctor")
    assert code == 0 and "engine check\tok" in out and "cca models pull" in err
