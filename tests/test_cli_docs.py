"""cca docs, as a shell sees it, on entries made without a model."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from library_entries import SETTINGS, WANTED, store, text_of
from tiny_checkpoint import make_tiny_checkpoint

from cca_cli.app import run
from cca_cli.library import Library
from cca_cli.tables import MANY_ROWS, aligned

Cca = Callable[..., tuple[int, str, str]]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The user's library, with two entries."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    for name in ("CCA_CACHE_DIR", "CCA_LIBRARY_SIZE"):
        monkeypatch.delenv(name, raising=False)
    library = Library(tmp_path / "home/cache/library")
    for at, name in enumerate(("old", "new")):
        entry = store(library, replace(WANTED, document_sha256=name), name=f"{name}.txt")
        os.utime(entry.path / "manifest.json", (1e9 + at, 1e9 + at))
    return library


@pytest.fixture
def cca(library: Library, capsys: pytest.CaptureFixture[str]) -> Cca:
    """Run a command line."""

    def call(*args: str) -> tuple[int, str, str]:
        code = run(args)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def key_of(name: str) -> str:
    """Return the key of one of the two entries."""
    return replace(WANTED, document_sha256=name).key


def test_listing_shows_every_state(cca: Cca, library: Library) -> None:
    text = text_of("draft.txt", "draft")
    library.open_draft(replace(WANTED, document_sha256="draft"), SETTINGS).start(text)
    (library.path_of(replace(WANTED, document_sha256="old")) / "manifest.json").write_bytes(b"{")
    rows = json.loads(cca("docs", "ls", "--json")[1])["documents"]
    # Finished ones first; directories with a dot sort before the others.
    assert [(row["name"], row["state"]) for row in rows] == [
        ("new.txt", "ready"),
        ("draft.txt", "unfinished, 0 %"),
        (None, "damaged: its manifest cannot be read"),
    ]
    assert rows[0]["adapter"] is None and rows[0]["sha256"] == "new"
    code, out, _ = cca("docs", "ls")
    assert code == 0 and all(line.count("\t") == 8 for line in out.splitlines())


def test_path(cca: Cca, library: Library) -> None:
    assert cca("docs", "path")[1] == f"{library.root}\n"
    path = str(library.root / key_of("new"))
    assert cca("docs", "path", "new.txt")[1] == f"{path}\n"
    assert json.loads(cca("docs", "path", "new.txt", "--json")[1])["path"] == path
    assert cca("docs", "path", "absent.txt")[0] == 4


def test_the_outline_comes_back(cca: Cca) -> None:
    facts = json.loads(cca("docs", "show", "new.txt", "--json")[1])
    assert facts["outline"] == [{"title": "Start", "page": 1, "level": 0}]
    assert "outline\tStart\t1" in cca("docs", "show", "new.txt")[1]


def test_verify_sees_what_lookups_do_not(cca: Cca, library: Library) -> None:
    assert cca("docs", "verify")[0] == 0
    manifest = library.root / key_of("new") / "manifest.json"
    content = manifest.read_text()
    manifest.write_text(content.replace('"prefix_tokens": 2', '"prefix_tokens": 3'))
    code, out, err = cca("docs", "verify")
    assert code == 8 and "manifest.json is not what was written" in out
    assert f"hint: cca docs rm {key_of('new')[:12]}" in err
    manifest.write_text("{")
    code, out, _ = cca("docs", "verify", "--json")
    rows = {row["key"]: row for row in json.loads(out)["documents"]}
    assert code == 8 and rows[key_of("new")]["damage"] == "its manifest cannot be read"
    assert rows[key_of("old")]["damage"] is None
    assert cca("docs", "rm", key_of("new")[:12])[0] == 0
    assert cca("docs", "verify")[0] == 0


def test_verify_sees_an_entry_under_another_key(cca: Cca, library: Library) -> None:
    (library.root / key_of("new")).rename(library.root / ("0" * 64))
    code, out, _ = cca("docs", "verify")
    assert code == 8 and "it lies under a key that is not its own" in out


def test_prune_to_a_size(cca: Cca, library: Library) -> None:
    code, out, err = cca("docs", "prune", "--max-size", "4k", "--dry-run")
    assert (
        code == 0 and out.startswith("would remove\told.txt\t") and len(library.directories()) == 2
    )
    code, out, err = cca("docs", "prune", "--max-size", "4k")
    assert code == 0 and out.startswith("removed\told.txt\t")
    assert "removed 1 entry, " in err and " of 4.0 KiB" in err
    assert [path.name for path in library.directories()] == [key_of("new")]


def test_prune_says_what_is_in_use(cca: Cca, library: Library) -> None:
    lease = library.use(replace(WANTED, document_sha256="old"))
    code, out, _ = cca("docs", "prune", "--max-size", "0", "--json")
    facts = json.loads(out)
    assert code == 0 and lease is not None
    assert [row["name"] for row in facts["removed"]] == ["new.txt"]
    assert [row["name"] for row in facts["in_use"]] == ["old.txt"]
    assert facts["left_bytes"] > facts["max_bytes"] == 0


def test_prune_obeys_the_variable(
    cca: Cca, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCA_LIBRARY_SIZE", "none")
    assert json.loads(cca("docs", "prune", "--json")[1])["max_bytes"] is None
    monkeypatch.setenv("CCA_LIBRARY_SIZE", "much")
    code, _, err = cca("docs", "prune")
    assert code == 2 and err.startswith("cca: error: CCA_LIBRARY_SIZE: expected a size")
    assert cca("docs", "prune", "--max-size", "much")[0] == 2
    assert len(library.directories()) == 2


def test_prune_of_what_was_not_used_and_is_stale(cca: Cca, library: Library) -> None:
    assert json.loads(cca("docs", "prune", "--stale", "--json")[1])["removed"] == []
    out = cca("docs", "prune", "--unused", "30", "--json")[1]
    assert len(json.loads(out)["removed"]) == 2 and library.directories() == []


def test_prune_of_nothing(cca: Cca, library: Library) -> None:
    assert cca("docs", "rm", "--all")[0] == 0
    code, out, err = cca("docs", "prune")
    assert (code, out) == (0, "") and "removed 0 entries" in err


def test_export_and_import(cca: Cca, library: Library, tmp_path: Path) -> None:
    file = tmp_path / "both.cca"
    code, out, err = cca("docs", "export", "old.txt", "new.txt", "-o", str(file))
    assert (code, out) == (0, "") and err.startswith("wrote 2 entries, ")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, out, _ = cca("docs", "import", str(file))
    assert code == 0 and out.count("already in the library") == 2
    cca("docs", "rm", "old.txt")
    rows = json.loads(cca("docs", "import", str(file), "--json")[1])["documents"]
    assert {row["name"]: row["new"] for row in rows} == {"old.txt": True, "new.txt": False}
    assert cca("docs", "verify")[0] == 0


def test_export_through_a_pipe(cca: Cca, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BytesIO()
    stdout = SimpleNamespace(buffer=pipe, isatty=lambda: False, flush=lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert run(["docs", "export", "new.txt", "-o", "-"]) == 0
    pipe.seek(0)
    cca("docs", "rm", "--all")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe, isatty=lambda: False))
    code, out, _ = cca("docs", "import", "-")
    assert code == 0 and out.startswith("new.txt: imported (")


def test_export_refuses(cca: Cca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "it.cca"
    file.write_text("mine")
    assert cca("docs", "export", "new.txt", "-o", str(file))[0] == 2
    assert file.read_text() == "mine"
    assert cca("docs", "export", "new.txt", "-o", str(file), "--force")[0] == 0
    assert cca("docs", "export", "new.txt", "-o", str(tmp_path / "no/where"))[0] == 2
    assert cca("docs", "export", "absent.txt", "-o", str(tmp_path / "x"))[0] == 4
    assert cca("docs", "export", "new.txt")[0] == 2
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    assert run(["docs", "export", "new.txt", "-o", "-"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "it.cca"]


def test_a_damaged_entry_leaves_no_file(cca: Cca, library: Library, tmp_path: Path) -> None:
    (library.root / key_of("new") / "text.jsonl").write_text("x")
    code, _, err = cca("docs", "export", "new.txt", "-o", str(tmp_path / "it.cca"))
    assert code == 8 and "new.txt: not exported, text.jsonl has 1 bytes" in err
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_import_of_what_is_none(cca: Cca, tmp_path: Path) -> None:
    (tmp_path / "it.cca").write_text("none of ours")
    code, out, err = cca("docs", "import", str(tmp_path / "it.cca"))
    assert (code, out) == (4, "") and "not what cca docs export writes" in err
    assert cca("docs", "import", str(tmp_path / "absent.cca"))[0] == 4


def test_an_import_obeys_the_cap(
    cca: Cca, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "it.cca")
    cca("docs", "export", "old.txt", "-o", file)
    cca("docs", "rm", "old.txt")
    monkeypatch.setenv("CCA_LIBRARY_SIZE", "4k")
    code, _, err = cca("docs", "import", file)
    assert code == 0 and "library: removed new.txt (" in err
    assert [path.name for path in library.directories()] == [key_of("old")]


def test_no_save_stands_beside_cache(cca: Cca, tmp_path: Path) -> None:
    for policy in ("refresh", "require"):
        code, _, err = cca("ask", "book.txt", "Who?", "--no-save", "--cache", policy)
        assert code == 2 and f"--no-save and --cache {policy} exclude each other" in err


def test_no_save_leaves_nothing_of_the_document(
    cca: Cca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cca("docs", "rm", "--all")
    home, scratch = tmp_path / "fresh", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("CCA_HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(scratch))
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny", context=4096)
    (tmp_path / "book.txt").write_text("The keeper lit the lamp of Utgard. " * 50)
    model = ("-m", str(checkpoint), "--max-new-tokens", "4")
    code, _, err = cca("ask", str(tmp_path / "book.txt"), "Who?", "--no-save", *model)
    assert code == 0, err
    assert list(scratch.iterdir()) == []
    files = [path for path in home.rglob("*") if path.is_file()]
    # What is known of the model stays: its tokenizer's table and the digest of its weights.
    assert {path.relative_to(home / "cache").parts[0] for path in files} <= {
        "tokenizers",
        "fingerprints.json",
    }
    assert not any(b"Utgard" in path.read_bytes() for path in files)


def test_long_tables_are_aligned() -> None:
    rows = [["a", "1"], ["日本", "22"], ["e\u0301", "333"]]
    assert aligned(["name", "n"], rows, [False, True]) == (
        "name    n\na       1\n日本   22\ne\u0301     333\n"
    )
    assert MANY_ROWS > 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_export_without_room_names_where_it_goes(
    cca: Cca, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as out:
        monkeypatch.setattr("sys.stdout", out)
        code, _, err = cca("docs", "export", "old.txt", "-o", "-")
        monkeypatch.undo()
        # What is left in its buffer can be written nowhere.
        with contextlib.suppress(OSError):
            out.close()
    assert code == 7 and "standard output: cannot be written: no space left" in err
