"""Reading into a library that is full, shared, or was left by a killed run."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_engine import FakeMemory, FakeModel, digest_of, load_fake

from cca_cli import ingestion_checkpoints, ingestion_job
from cca_cli.console import Console
from cca_cli.document_text import ReadOptions
from cca_cli.errors import ResourceError, UsageError
from cca_cli.ingestion import OpenDocument, open_document
from cca_cli.library import Library
from cca_cli.library_draft import Draft
from cca_cli.paths import library_dir

WORDS = " ".join(f"word{i}" for i in range(300))


class KilledError(BaseException):
    """Stands for SIGKILL: nothing may clear up after it."""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three books, and an empty home for the library."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    for name in ("CCA_CACHE_DIR", "CCA_LIBRARY_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ingestion_job, "_load_memory", load_fake)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"{name} {WORDS}")
    return tmp_path


def opened(path: Path, model: FakeModel | None = None, **options: Any) -> OpenDocument:
    """Open a document and check that its memory is of exactly its ids."""
    result = open_document(
        str(path), model or FakeModel(), console=Console(), prefix_ids=(7, 8), **options
    )
    assert result.memory.digest == digest_of(result.text.ids.tolist())
    return result


def names() -> list[str]:
    """List the documents in the library."""
    return sorted(e.manifest["document"]["name"] for e in Library(library_dir()).entries())


def test_a_library_over_its_size_loses_what_was_used_longest_ago(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for at, name in enumerate("ab"):
        entry = opened(shelf / f"{name}.txt").entry
        assert entry is not None
        os.utime(entry.path / "manifest.json", (1e9 + at, 1e9 + at))
    gc.collect()
    size = sum(file.stat().st_size for file in entry.path.iterdir())
    monkeypatch.setenv("CCA_LIBRARY_SIZE", str(2 * size + 100))
    opened(shelf / "c.txt")
    assert names() == ["b.txt", "c.txt"]
    assert "library: removed a.txt (" in capsys.readouterr().err


def test_what_is_open_is_not_removed_to_make_room(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = opened(shelf / "a.txt")
    opened(shelf / "b.txt")
    hit = opened(shelf / "b.txt")
    gc.collect()
    monkeypatch.setenv("CCA_LIBRARY_SIZE", "1")
    opened(shelf / "c.txt")
    assert names() == ["a.txt", "b.txt", "c.txt"]
    assert "more than its 1 bytes" in capsys.readouterr().err
    del reader, hit
    gc.collect()
    opened(shelf / "c.txt", cache="refresh")
    assert names() == ["c.txt"], "the new one itself always stays"


def test_a_size_that_is_none_is_told_before_the_reading(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCA_LIBRARY_SIZE", "much")
    model = FakeModel()
    with pytest.raises(UsageError):
        opened(shelf / "a.txt", model)
    assert not model.prefilled


def test_a_disk_without_room_is_told_before_the_reading(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=1000, total=10**12, used=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    model = FakeModel()
    with pytest.raises(ResourceError, match=r"a.txt: its memory takes .* 1000 bytes are free"):
        opened(shelf / "a.txt", model)
    assert not model.prefilled and Library(library_dir()).directories() == []


def test_a_checkpoint_that_finds_no_room_does_not_stop_the_reading(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ingestion_checkpoints, "CHECKPOINT_SECONDS", 0.0)
    attempts = []

    def fail(self: Draft, text: Any, memory: Any) -> None:
        attempts.append(memory.seen)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Draft, "checkpoint", fail)
    opened(shelf / "a.txt")
    assert attempts == [100], "once is enough"
    assert capsys.readouterr().err.count("progress cannot be saved") == 1
    assert names() == ["a.txt"]


@pytest.mark.parametrize(
    ("free", "gives_way"),
    [(10**9, False), (600_000, True), (1000, False)],
    ids=["room for both", "room for one", "no room"],
)
def test_a_checkpoint_gives_way_where_only_one_memory_fits(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, free: int, gives_way: bool
) -> None:
    monkeypatch.setattr(ingestion_checkpoints, "CHECKPOINT_SECONDS", 0.0)
    save = FakeMemory.save
    there: list[bool] = []

    def save_large(self: FakeMemory, path: Path) -> None:
        there.append(bool(list(path.parent.glob("memory-*"))))
        save(self, path)
        with path.open("ab") as stream:
            stream.write(b"\0" * 300_000)

    def usage(path: object) -> SimpleNamespace:
        return SimpleNamespace(free=free, total=10**12)

    def make_way(self: Draft, text: Any, memory: Any) -> None:
        memory.nbytes = 300_000
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", usage)
            original(self, text, memory)

    original = Draft._make_way
    monkeypatch.setattr(Draft, "_make_way", make_way)
    monkeypatch.setattr(FakeMemory, "save", save_large)
    # The fake's file is longer than its header says; what counts is on the disk when it is written.
    monkeypatch.setattr("cca_cli.library_entry.check_safetensors", lambda path: None)
    opened(shelf / "a.txt")
    assert there[-1] is not gives_way and names() == ["a.txt"]


def test_text_that_a_killed_run_stored_is_not_read_again(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(seen: int) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Draft, "discard_if_useless", lambda self: None)
        with pytest.raises(KilledError):
            opened(shelf / "a.txt", FakeModel(on_tokens=die))

    def fail(self: ReadOptions, path: str) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr(ReadOptions, "read", fail)
    result = opened(shelf / "a.txt")
    assert result.document.pages[0].text.startswith("a word0")
    assert "extract" not in result.timing_s


def test_half_written_files_of_a_killed_run_go(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion_checkpoints, "CHECKPOINT_SECONDS", 0.0)

    def die(seen: int) -> None:
        if seen > 500:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Draft, "discard_if_useless", lambda self: None)
        with pytest.raises(KilledError):
            opened(shelf / "a.txt", FakeModel(on_tokens=die))
    (draft,) = Library(library_dir()).directories()
    (draft / ".0a1b2c3d-memory-600.safetensors").write_bytes(b"half")
    seen: list[list[str]] = []

    def look(tokens: int) -> None:
        seen.append([path.name for path in draft.glob(".*")])

    opened(shelf / "a.txt", FakeModel(on_tokens=look))
    assert seen[0] == [] and names() == ["a.txt"]


def test_an_entry_that_goes_while_it_is_opened_is_read_again(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = opened(shelf / "a.txt").entry
    assert entry is not None
    read_text = type(entry).read_text

    def vanish(self: Any) -> Any:
        monkeypatch.setattr(type(entry), "read_text", read_text)
        shutil.rmtree(self.path)
        return read_text(self)

    monkeypatch.setattr(type(entry), "read_text", vanish)
    result = opened(shelf / "a.txt")
    assert not result.hit and names() == ["a.txt"]


def test_another_adapter_is_named(shelf: Path) -> None:
    opened(shelf / "a.txt", FakeModel(adapter="mine"))
    for adapter, weights, words in (
        ("yours", "v2", "read with adapter mine, not with adapter yours"),
        ("mine", "v3", "read with another version or adapter of the model fake"),
        (None, "v4", "no adapter"),
    ):
        reason = opened(shelf / "a.txt", FakeModel(adapter=adapter, weights=weights)).reason
        assert reason is not None and words in reason


def full(self: FakeMemory, path: Path) -> None:
    """Save half of a memory on a disk that is full then."""
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device", str(path))


def test_what_finds_no_room_is_answered_from_all_the_same(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(FakeMemory, "save", full)
        result = opened(shelf / "a.txt", must_keep=False)
    assert result.entry is None and result.lease is None and not result.hit
    assert result.cache_json()["entry"] is None
    assert "a.txt: not kept in the library (disk full" in capsys.readouterr().err
    assert Library(library_dir()).directories() == [] and names() == []
    assert opened(shelf / "a.txt").entry is not None


def test_what_is_read_to_be_kept_must_be(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeMemory, "save", full)
    with pytest.raises(OSError, match="No space"):
        opened(shelf / "a.txt")


def test_a_log_that_grows_between_digest_and_reading(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shelf / "a.txt"
    read = ReadOptions.read

    def after_a_line(self: ReadOptions, name: str) -> Any:
        with path.open("a") as stream:
            stream.write("one line more\n")
        return read(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(ReadOptions, "read", after_a_line)
        model = FakeModel()
        result = opened(path, model)
    assert result.document.pages[-1].text.endswith("one line more")
    assert sum(model.prefilled) == len(result.text.ids)
    assert opened(path).hit


@pytest.mark.parametrize("file", ["text.jsonl", "tokens.npy"])
def test_text_that_cannot_be_read_is_read_again(
    shelf: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    first = opened(shelf / "a.txt")
    assert first.entry is not None
    path = first.entry.path / file
    path.write_bytes(b"\x80" * path.stat().st_size)
    again = opened(shelf / "a.txt")
    assert not again.hit and again.reason is not None and "entry is damaged" in again.reason
    assert again.document == first.document and opened(shelf / "a.txt").hit
