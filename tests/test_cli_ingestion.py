"""From a file to a memory: hits, misses, resuming, interrupts, limits, disk full, two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeMemory, FakeModel, digest_of, load_fake

from cca_cli import ingestion, ingestion_job
from cca_cli.console import Console
from cca_cli.document_text import ReadOptions
from cca_cli.errors import InputError, MissingMemoryError, TooLongError
from cca_cli.ingestion import OpenDocument, open_document, open_text
from cca_cli.library import Library
from cca_cli.paths import library_dir

ROOT = Path(__file__).parents[1]
WORDS = " ".join(f"word{i}" for i in range(300))


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text file, and an empty home for the library."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CCA_CACHE_DIR", raising=False)
    monkeypatch.setattr(ingestion_job, "_load_memory", load_fake)
    path = tmp_path / "book.txt"
    path.write_text(WORDS)
    return path


def opened(path: Path | str, model: FakeModel | None = None, **options: Any) -> OpenDocument:
    """Open a document and check that its memory is of exactly its ids."""
    options.setdefault("prefix_ids", (7, 8))
    result = open_document(str(path), model or FakeModel(), console=Console(), **options)
    assert result.memory.digest == digest_of(result.text.ids.tolist())
    return result


def test_first_read_then_found(book: Path) -> None:
    model = FakeModel()
    first = opened(book, model)
    assert not first.hit and first.reason == "not in the library"
    assert first.text.ids[:2].tolist() == [7, 8]
    assert first.entry is not None and first.entry.path.is_dir()
    assert set(first.timing_s) == {"extract", "tokenise", "prefill", "save"}

    read = sum(model.prefilled)
    second = opened(book, model)
    assert second.hit and second.reason is None
    assert sum(model.prefilled) == read == len(second.text.ids)
    assert second.document == first.document
    assert second.text.page_spans == first.text.page_spans
    assert set(second.timing_s) == {"cache_load"}


def test_a_hit_does_not_read_the_file_again(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(book)

    def fail(self: ReadOptions, path: str) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr(ReadOptions, "read", fail)
    assert opened(book).hit
    assert open_text(str(book), console=Console()).pages[0].text.startswith("word0")


def test_page_spans_are_exact(book: Path) -> None:
    book.write_text("\n\n".join(f"{i} " + "x" * 3000 for i in range(5)))
    result = opened(book)
    ids = result.text.ids.tolist()
    assert len(result.document.pages) > 1
    end = 2
    for page, (start, stop) in zip(result.document.pages, result.text.page_spans, strict=True):
        assert start == end
        assert "".join(map(chr, ids[start:stop])) == page.text + "\n"
        end = stop
    assert end == len(ids)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({}, {"model": FakeModel(group_size=32)}, "read with group_size 16"),
        (
            {},
            {"model": FakeModel(weights="v2")},
            "read with another version or adapter of the model fake",
        ),
        ({}, {"model": FakeModel(name="big")}, "read with another model: fake"),
        ({}, {"prefix_ids": (9,)}, "read under another prompt"),
    ],
)
def test_other_settings_miss(
    book: Path, first: dict[str, Any], second: dict[str, Any], reason: str
) -> None:
    opened(book, **first)
    result = opened(book, **second)
    assert not result.hit and result.reason == reason


def test_one_changed_byte_misses(book: Path) -> None:
    opened(book)
    book.write_text(WORDS.replace("word7 ", "word8 "))
    assert opened(book).reason == "the file has changed since it was read"


def test_a_moved_file_is_recognised_by_its_content(book: Path) -> None:
    opened(book)
    other = book.with_name("other.txt")
    book.rename(other)
    found = opened(other)
    assert found.hit
    assert (found.document.name, found.document.path) == ("other.txt", str(other))


def test_standard_input(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for hit in (False, True):
        with book.open() as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            result = opened("-")
        assert result.hit is hit and result.document.name == "stdin"


def test_cache_off_leaves_nothing(book: Path) -> None:
    result = opened(book, cache="off")
    assert not result.hit and result.entry is None
    assert not library_dir().exists()


def test_cache_require_fails_with_the_reason(book: Path) -> None:
    with pytest.raises(MissingMemoryError, match="not in the library") as caught:
        opened(book, cache="require")
    assert caught.value.code == 8 and "cca ingest" in caught.value.hint
    opened(book)
    assert opened(book, cache="require").hit


def test_cache_refresh_reads_again(book: Path) -> None:
    opened(book)
    model = FakeModel()
    result = opened(book, model, cache="refresh")
    assert not result.hit and sum(model.prefilled) == len(result.text.ids)
    assert len(list(Library(library_dir()).entries())) == 1


def test_a_damaged_entry_is_read_again_with_a_warning(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = opened(book).entry
    assert entry is not None
    entry.memory_path.write_bytes(b"nonsense")
    result = opened(book)
    assert not result.hit and "entry is damaged" in str(result.reason)
    assert "cca: warning: book.txt: entry is damaged" in capsys.readouterr().err
    assert opened(book).hit


def test_a_memory_without_room_for_the_answer_is_read_again(book: Path) -> None:
    opened(book, reserve=10)
    assert opened(book, reserve=5000).reason == (
        "read with too little room for the question and answer"
    )
    assert opened(book, reserve=5000).hit


def test_too_long_names_both_numbers_and_pages_that_fit(book: Path) -> None:
    book.write_text("\n\n".join(f"{i} " + "x" * 3000 for i in range(5)))
    counts = opened(book).text.page_tokens
    limit = 2 + counts[0] + counts[1] + 50
    model = FakeModel(weights="small", max_tokens=limit)
    with pytest.raises(TooLongError) as caught:
        opened(book, model, reserve=50)
    needed = 2 + sum(counts) + 50
    assert caught.value.message == (
        f"book.txt: needs {needed:,} tokens, model allows {limit:,} ({needed - limit:,} over)"
    )
    assert caught.value.code == 5
    assert caught.value.hint.startswith(f"--pages 1-2 (≈{(counts[0] + counts[1]) // 1000}k tokens)")
    assert not model.prefilled, "nothing may be read of a document that does not fit"

    fitting = opened(book, model, reserve=50, options=ReadOptions(pages="1-2"))
    assert len(fitting.document.pages) == 2


def test_exactly_at_the_limit_fits(book: Path) -> None:
    needed = 2 + len(WORDS) + 1 + 50
    assert opened(book, FakeModel(max_tokens=needed), reserve=50).text.ids.size == needed - 50
    with pytest.raises(TooLongError):
        opened(book, FakeModel(weights="small", max_tokens=needed - 1), reserve=50)


def test_a_missing_file_is_an_input_error(book: Path) -> None:
    with pytest.raises(InputError) as caught:
        opened(book.with_name("absent.txt"))
    assert caught.value.code == 4


def test_ignored_ctrl_c_stays_ignored(book: Path) -> None:
    def press(seen: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = opened(book, FakeModel(on_tokens=press))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.memory.seen == len(result.text.ids)


def test_ctrl_c_keeps_what_was_read_and_a_rerun_continues(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(seen: int) -> None:
        if seen == 500:
            os.kill(os.getpid(), signal.SIGINT)

    model = FakeModel(on_tokens=press)
    with pytest.raises(KeyboardInterrupt):
        opened(book, model)
    assert sum(model.prefilled) == 500
    said = capsys.readouterr().err
    assert "stopping after this chunk" in said and "kept 500 of" in said
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    again = FakeModel()
    result = opened(book, again)
    assert sum(again.prefilled) == len(result.text.ids) - 500
    assert result.reason == "an earlier run was interrupted"
    assert opened(book).hit


def test_a_second_ctrl_c_stops_at_once(book: Path) -> None:
    def press(seen: int) -> None:
        if seen == 500:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on after the second Ctrl-C")

    with pytest.raises(KeyboardInterrupt):
        opened(book, FakeModel(on_tokens=press))
    assert Library(library_dir()).directories() == []


def test_sigterm_keeps_what_was_read_and_exits_143(book: Path) -> None:
    def stop(seen: int) -> None:
        if seen == 300:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        opened(book, FakeModel(on_tokens=stop))
    assert caught.value.code == 143
    assert [row["done"] for row in Library(library_dir()).listing()] == [300]


def test_ctrl_c_while_saving_still_stores(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = FakeMemory.save

    def press_and_save(self: FakeMemory, path: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save(self, path)

    monkeypatch.setattr(FakeMemory, "save", press_and_save)
    with pytest.raises(KeyboardInterrupt):
        opened(book)
    assert opened(book).hit


def test_a_damaged_checkpoint_is_not_used(book: Path) -> None:
    def press(seen: int) -> None:
        if seen == 500:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        opened(book, FakeModel(on_tokens=press))
    (draft,) = Library(library_dir()).directories()
    (draft / "memory-500.safetensors").write_bytes(b"x" * 100)
    model = FakeModel()
    result = opened(book, model)
    assert sum(model.prefilled) == len(result.text.ids)


def test_disk_full_leaves_the_library_as_it_was(
    book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(book)
    other = book.with_name("other.txt")
    other.write_text("another " + WORDS)
    before = sorted(library_dir().rglob("*"))

    def fail(self: FakeMemory, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("cannot write: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(FakeMemory, "save", fail)
    with pytest.raises(OSError, match="No space"):
        opened(other)
    after = [p for p in sorted(library_dir().rglob("*")) if ".locks" not in p.parts]
    assert after == [p for p in before if ".locks" not in p.parts]


def test_a_run_killed_just_before_the_rename_is_promoted(
    book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(*args: object) -> None:
        raise KilledError

    from cca_cli.library_draft import Draft

    with monkeypatch.context() as patch:
        patch.setattr(Draft, "promote", killed)
        patch.setattr(Draft, "discard_if_useless", lambda self: None)
        with pytest.raises(KilledError):
            opened(book)
    model = FakeModel()
    assert opened(book, model).hit and not model.prefilled


def run_fake(book: Path, pause: float, die_after: int) -> subprocess.Popen[str]:
    """Ingest in a process of its own."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels", "tests"))
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/fake_engine.py"), book, str(pause), str(die_after)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )


def test_a_killed_ingest_is_continued(book: Path) -> None:
    killed = run_fake(book, 0.0, 700)
    killed.communicate(timeout=30)
    assert killed.returncode == -signal.SIGKILL
    assert list(Library(library_dir()).entries()) == []

    model = FakeModel()
    result = opened(book, model, prefix_ids=(7, 7))
    # It died in the chunk that ended at 700, before that chunk was saved.
    assert sum(model.prefilled) == len(result.text.ids) - 600
    assert opened(book, prefix_ids=(7, 7)).hit


def test_two_processes_make_one_entry(book: Path) -> None:
    racers = [run_fake(book, 0.05, 10**9) for _ in range(2)]
    results = []
    for racer in racers:
        out, err = racer.communicate(timeout=60)
        assert racer.returncode == 0, err
        results.append(json.loads(out))
    assert sorted(result["hit"] for result in results) == [False, True]
    assert sum(result["prefilled"] > 0 for result in results) == 1
    assert len(list(Library(library_dir()).entries())) == 1


def test_the_summary_line(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened(book)
    assert capsys.readouterr().err.splitlines() == [
        "book.txt: 1 section, 300 words, 2,290 tokens",
        "book.txt: not in the library; reading takes about 2 s",
    ]


def test_the_plan_is_told_before_anything_is_read(book: Path) -> None:
    model = FakeModel()
    plans = []

    def refuse(plan: ingestion.Plan) -> None:
        plans.append((plan.reason, plan.tokens, sum(model.prefilled)))
        raise InputError("no, thanks")

    with pytest.raises(InputError):
        opened(book, model, on_plan=refuse)
    assert plans == [("not in the library", 2 + len(WORDS) + 1, 0)]
    assert Library(library_dir()).directories() == []
