"""The library on disk: keys, reasons of a miss, damage, removal, drafts."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeMemory
from library_entries import SETTINGS, WANTED, store, text_of

from cca_cli.errors import InputError, MissingMemoryError
from cca_cli.library import Hit, Library, Miss
from cca_cli.library_check import thorough_damage
from cca_cli.library_draft import Draft
from cca_cli.library_entry import Fingerprint
from cca_cli.library_sweep import sweep


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """An empty library."""
    return Library(tmp_path / "library")


def test_what_is_stored_comes_back(library: Library) -> None:
    entry = store(library)
    found = library.lookup(WANTED, path="/shelf/book.txt", settings=SETTINGS)
    assert isinstance(found, Hit)
    again = found.entry.read_text()
    original = text_of()
    assert again.document == original.document
    assert again.ids.dtype == np.uint32 and again.ids.tolist() == original.ids.tolist()
    assert again.page_spans == ((2, 8), (8, 8), (8, 12))
    assert entry.nbytes == sum(
        file.stat().st_size for file in entry.path.iterdir() if file.name != "manifest.json"
    )


def test_an_open_library_is_closed(library: Library) -> None:
    library.root.mkdir(mode=0o755)
    library.root.chmod(0o755)
    store(library)
    assert stat.S_IMODE(library.root.stat().st_mode) == 0o700


def test_entries_of_the_first_release_are_read(library: Library) -> None:
    entry = store(library)
    manifest = json.loads((entry.path / "manifest.json").read_text())
    for name in ("seal", "made_by"):
        del manifest[name]
    del manifest["settings"]["adapter"], manifest["files"]["margin.safetensors"]
    manifest["document"]["outline"] = [{"title": "Start", "page": 1, "level": 0}]
    (entry.path / "margin.safetensors").unlink()
    (entry.path / "manifest.json").write_text(json.dumps(manifest))
    found = library.lookup(WANTED, path="/x", settings=SETTINGS)
    assert isinstance(found, Hit) and found.entry.margin_path is None
    assert found.entry.read_document() == text_of().document
    assert thorough_damage(found.entry, found.entry.path) is None


def test_every_part_of_the_fingerprint_changes_the_key() -> None:
    keys = {WANTED.key}
    for item in fields(Fingerprint):
        value = getattr(WANTED, item.name)
        other = value + 1 if isinstance(value, int) else value + "x"
        keys.add(replace(WANTED, **{item.name: other}).key)
    assert len(keys) == 1 + len(fields(Fingerprint))


def test_files_are_private_and_the_root_is_tagged(library: Library) -> None:
    entry = store(library)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in entry.path.iterdir()}
    assert modes == {0o600}
    assert {stat.S_IMODE(p.stat().st_mode) for p in (library.root, entry.path)} == {0o700}
    assert (library.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172")


@pytest.mark.parametrize(
    ("change", "settings", "reason"),
    [
        ({"model": "x"}, {"model": "other"}, "read with another model: tiny"),
        ({"model": "x"}, {"group_size": 32}, "read with group_size 16"),
        ({"model": "x"}, {"window": 512}, "read with window 1024"),
        ({"model": "x"}, {"dtype": "bfloat16"}, "read with dtype float32"),
        ({"model": "x"}, {}, "read with another version or adapter of the model tiny"),
        ({"model": "x"}, {"adapter": "mine"}, "read with no adapter, not with adapter mine"),
        ({"pages": "1-3"}, {}, "read with other pages: all"),
        ({"reading": "x"}, {}, f"read with another reader version: {WANTED.reading}"),
        (
            {"reading": f"x 2, {WANTED.reading}"},
            {},
            f"read with another reader version: {WANTED.reading}",
        ),
        ({"tokenizer": "x"}, {}, "read with another tokenizer"),
        ({"prefix_sha256": "x"}, {}, "read under another prompt"),
        ({"format_version": 0}, {}, "read by cca 0.1.0 (library format 1)"),
        ({"document_sha256": "x"}, {}, "the file has changed since it was read"),
    ],
)
def test_a_miss_says_why(
    library: Library, change: dict[str, str], settings: dict[str, str], reason: str
) -> None:
    store(library)
    wanted = replace(WANTED, **change)
    found = library.lookup(wanted, path="/shelf/book.txt", settings=replace(SETTINGS, **settings))
    assert found == Miss(reason)


def test_the_nearest_entry_names_the_reason(library: Library) -> None:
    store(library, replace(WANTED, model="x", tokenizer="x"), replace(SETTINGS, model="far"))
    store(library, replace(WANTED, pages="1-3"))
    found = library.lookup(WANTED, path="/shelf/book.txt", settings=SETTINGS)
    assert found == Miss("read with other pages: 1-3")


def test_an_unknown_document_is_not_in_the_library(library: Library) -> None:
    unknown = replace(WANTED, document_sha256="x")
    assert library.lookup(unknown, path="/a", settings=SETTINGS) == Miss("not in the library")
    store(library)
    assert library.lookup(unknown, path="/a", settings=SETTINGS) == Miss("not in the library")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("memory.safetensors", b"", "memory.safetensors has 0 bytes"),
        ("memory.safetensors", None, "memory.safetensors is missing"),
        ("tokens.npy", b"short", "tokens.npy has 5 bytes"),
        ("manifest.json", b"{", "its manifest cannot be read"),
        ("manifest.json", b"{}", "its manifest cannot be read"),
        ("manifest.json", None, "its manifest cannot be read"),
    ],
)
def test_damage_is_a_miss(library: Library, file: str, content: bytes | None, words: str) -> None:
    entry = store(library)
    if content is None:
        (entry.path / file).unlink()
    else:
        (entry.path / file).write_bytes(content)
    found = library.lookup(WANTED, path="/shelf/book.txt", settings=SETTINGS)
    assert isinstance(found, Miss)
    assert found.reason.startswith("entry is damaged: ") and words in found.reason


def test_a_broken_header_of_the_right_size_is_damage(library: Library) -> None:
    entry = store(library)
    content = bytearray(entry.memory_path.read_bytes())
    content[8:12] = b"\0\0\0\0"
    entry.memory_path.write_bytes(content)
    assert entry.damage() == "memory.safetensors has no readable header"


def test_only_a_thorough_look_sees_a_flipped_bit(library: Library) -> None:
    entry = store(library)
    content = bytearray(entry.memory_path.read_bytes())
    content[-1] ^= 1
    entry.memory_path.write_bytes(content)
    assert entry.damage() is None
    assert entry.damage(thorough=True) == "memory.safetensors is not what was written"


def test_storing_again_replaces_the_entry(library: Library) -> None:
    first = store(library)
    (first.path / "tokens.npy").write_bytes(b"short")
    store(library)
    assert isinstance(library.lookup(WANTED, path="/x", settings=SETTINGS), Hit)
    assert len(library.directories()) == 1
    assert not list(library.root.glob(".trash-*"))


def test_a_draft_is_invisible_until_it_is_finished(library: Library) -> None:
    text = text_of()
    draft = library.open_draft(WANTED, SETTINGS)
    draft.start(text)
    assert library.lookup(WANTED, path="/x", settings=SETTINGS) == Miss("not in the library")
    draft.checkpoint(text, FakeMemory(100, seen=6))
    found = library.lookup(WANTED, path="/x", settings=SETTINGS)
    assert found == Miss("an earlier run was interrupted", begun=6)
    assert list(library.entries()) == []
    assert [row["state"] for row in library.listing()] == ["unfinished, 50 %"]


def test_a_checkpoint_replaces_the_one_before(library: Library) -> None:
    text = text_of()
    draft = library.open_draft(WANTED, SETTINGS)
    draft.start(text)
    for seen in (4, 8):
        draft.checkpoint(text, FakeMemory(100, seen=seen))
    saved = draft.saved_memory()
    assert saved is not None and saved[1] == 8
    assert [file.name for file in draft.path.glob("*.safetensors")] == ["memory-8.safetensors"]
    again = Draft(draft.path, WANTED, SETTINGS).read_text()
    assert again is not None and again.document == text.document


def test_a_failing_checkpoint_keeps_the_one_before(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of()
    draft = library.open_draft(WANTED, SETTINGS)
    draft.start(text)
    draft.checkpoint(text, FakeMemory(100, seen=4))

    def fail(self: FakeMemory, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FakeMemory, "save", fail)
    with pytest.raises(OSError, match="No space"):
        draft.checkpoint(text, FakeMemory(100, seen=8))
    saved = draft.saved_memory()
    assert saved is not None and saved[1] == 4
    assert not [file for file in draft.path.iterdir() if file.name.startswith(".")]


def test_an_empty_save_is_not_taken_for_a_save(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of()
    draft = library.open_draft(WANTED, SETTINGS)
    draft.start(text)
    monkeypatch.setattr(FakeMemory, "save", lambda self, path: path.write_bytes(b""))
    with pytest.raises(OSError, match="nothing was written"):
        draft.finish(text, FakeMemory(100, seen=12), library.path_of(WANTED))
    assert not library.path_of(WANTED).exists()


def test_sweep_removes_what_is_of_no_use_only(library: Library) -> None:
    text = text_of()
    useless = library.open_draft(WANTED, SETTINGS)
    useless.start(text)
    useful = library.open_draft(replace(WANTED, pages="1-3"), SETTINGS)
    useful.start(text)
    useful.checkpoint(text, FakeMemory(100, seen=6))
    old = library.open_draft(replace(WANTED, pages="4"), SETTINGS)
    old.start(text)
    old.checkpoint(text, FakeMemory(100, seen=6))
    os.utime(old.path, (0, 0))
    (library.root / ".trash-1").mkdir()
    store(library, replace(WANTED, pages="5"))
    sweep(library)
    assert not useless.path.exists() and not old.path.exists()
    assert not (library.root / ".trash-1").exists()
    assert useful.path.exists() and len(list(library.entries())) == 1


def test_sweep_leaves_a_draft_alone_whose_key_is_held(library: Library) -> None:
    with library.hold(WANTED, on_wait=lambda pid: None):
        draft = library.open_draft(WANTED, SETTINGS)
        draft.start(text_of())
        sweep(library)
        assert draft.path.exists()
        with pytest.raises(MissingMemoryError, match=f"pid {os.getpid()}"):
            library.remove(draft.path)
    sweep(library)
    assert not draft.path.exists()


def test_find_by_path_name_and_key(library: Library) -> None:
    entry = store(library)
    for query in ("/shelf/book.txt", "book.txt", entry.key[:8]):
        assert [found.key for found in library.find(query)] == [entry.key]
    for query in ("other.txt", entry.key[:3], ""):
        with pytest.raises(InputError, match="not in the library"):
            library.find(query)


def test_one_name_for_two_documents_is_ambiguous(library: Library) -> None:
    store(library)
    store(library, replace(WANTED, document_sha256="e" * 64))
    # Same name and, in this test, same path: the path is what tells.
    assert len(library.find("/shelf/book.txt")) == 2
    with pytest.raises(InputError, match="several documents"):
        library.find("book.txt")


def test_listing_is_by_last_use(library: Library) -> None:
    first, second = store(library), store(library, replace(WANTED, pages="2"))
    os.utime(first.path / "manifest.json", (1e9, 1e9))
    os.utime(second.path / "manifest.json", (1e9 + 5, 1e9 + 5))
    assert [row["key"] for row in library.listing()] == [second.key, first.key]
    first.touch()
    assert [row["key"] for row in library.listing()] == [first.key, second.key]


def test_remove_frees_what_it_says(library: Library) -> None:
    entry = store(library)
    held = sum(file.stat().st_size for file in entry.path.iterdir())
    assert library.remove(entry.path) == held
    assert list(library.entries()) == [] and library.directories() == []


def test_the_holder_is_named_to_whoever_waits(library: Library) -> None:
    script = (
        "import sys, time; from pathlib import Path; from cca_cli.library import Library\n"
        "from library_entries import WANTED\n"
        "with Library(Path(sys.argv[1])).hold(WANTED, on_wait=print):\n"
        "    print('held', flush=True); time.sleep(0.6)\n"
    )
    path = os.pathsep.join(["tests", ".", "models", "kernels"])
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(library.root)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        cwd=Path(__file__).parents[1],
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    told: list[str] = []
    with library.hold(WANTED, on_wait=told.append):
        assert holder.wait(timeout=10) == 0
    assert told == [str(holder.pid)]
