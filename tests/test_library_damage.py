"""A library that holds what cca did not write: no command fails over it, and nothing is lost."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from library_entries import SETTINGS, WANTED, store

from cca_cli.app import run
from cca_cli.library import Library, Miss
from cca_cli.library_check import check
from cca_cli.library_files import make_private_dir

Cca = Callable[..., tuple[int, str, str]]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A library with one entry, which is the user's own."""
    monkeypatch.setenv("CCA_CACHE_DIR", str(tmp_path / "cache"))
    library = Library(tmp_path / "cache/library")
    store(library)
    return library


@pytest.fixture
def cca(capsys: pytest.CaptureFixture[str]) -> Cca:
    def call(*args: str) -> tuple[int, str, str]:
        code = run(args)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest."""
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))


def make_pipe(path: Path) -> None:
    """Put a pipe where a file was: whoever opens it waits for a writer."""
    path.unlink()
    os.mkfifo(path)


def nest(path: Path) -> None:
    """Put JSON there that is nested too deeply for a parser that calls itself."""
    path.write_bytes(b"[" * 200_000)


def set_in(*names: str, to: object) -> Callable[[Path], None]:
    def change(manifest: dict[str, Any]) -> None:
        inner = manifest
        for name in names[:-1]:
            inner = inner[name]
        inner[names[-1]] = to

    return lambda path: rewrite(path, change)


def within(seconds: float, work: Callable[[], None]) -> bool:
    """Say whether work ends within a time."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


@pytest.mark.parametrize(
    "damage",
    [
        nest,
        set_in("files", "text.jsonl", "bytes", to="many"),
        set_in("files", "text.jsonl", "bytes", to=float("inf")),
        set_in("files", to=["text.jsonl"]),
        set_in("pages", to=float("inf")),
        set_in("document", "name", to=None),
        set_in("document", "outline", to=7),
        set_in("document", "warnings", to="none"),
        set_in("created", to=None),
    ],
)
def test_a_manifest_that_is_none_stops_no_command(
    library: Library, cca: Cca, damage: Callable[[Path], None]
) -> None:
    damage(library.path_of(WANTED) / "manifest.json")
    code, out, _ = cca("docs", "ls", "--json")
    assert code == 0 and json.loads(out)["documents"][0]["key"] == WANTED.key
    assert cca("docs", "verify", "--json")[0] == 8
    assert cca("docs", "show", "book.txt", "--json")[0] in (4, 8)
    assert cca("docs", "prune", "--json")[0] == 0
    found = library.lookup(WANTED, path="/shelf/book.txt", settings=SETTINGS)
    assert isinstance(found, Miss) and found.reason.startswith("entry is damaged")
    assert cca("docs", "rm", WANTED.key[:12])[0] == 0
    assert library.directories() == []


@pytest.mark.parametrize("file", ["manifest.json", "text.jsonl"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(library: Library, cca: Cca, file: str) -> None:
    make_pipe(library.path_of(WANTED) / file)
    codes: list[int] = []

    def work() -> None:
        for args in (["ls"], ["show", "book.txt"], ["verify"]):
            codes.append(cca("docs", *args, "--json")[0])

    assert within(20, work)
    assert codes[0] == 0 and codes[1] in (4, 8) and codes[2] == 8


@pytest.mark.parametrize(
    "content",
    [b"XXXX", b"\x80\x81", b'{"number": 1}\n', b"[" * 200_000, b"5\n", None],
    ids=["no JSON", "no UTF-8", "no page", "nested", "a number", "missing"],
)
@pytest.mark.parametrize("page", [(), ("--page", "1")], ids=["all", "a page"])
def test_showing_a_damaged_entry_says_so(
    library: Library, cca: Cca, content: bytes | None, page: tuple[str, ...]
) -> None:
    path = library.path_of(WANTED) / "text.jsonl"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    code, out, err = cca("docs", "show", "book.txt", *page, "--json")
    assert (code, out) == (8, "")
    assert "entry is damaged: text.jsonl" in json.loads(err)["error"]["message"]


def test_a_manifest_cannot_name_other_files(library: Library, tmp_path: Path) -> None:
    (tmp_path / "cache/secret.json").write_text("secret")
    other = {"bytes": 6, "sha256": "0" * 64}
    set_in("files", "../../secret.json", to=other)(library.path_of(WANTED) / "manifest.json")
    found = library.lookup(WANTED, path="/shelf/book.txt", settings=SETTINGS)
    assert isinstance(found, Miss) and "names other files" in found.reason
    assert [f.damage is not None for f in check(library)] == [True]


def test_where_a_link_leads_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    (tmp_path / "library").symlink_to(shared)
    make_private_dir(tmp_path / "library")
    assert shared.stat().st_mode & 0o777 == 0o755


def test_a_linked_library_works_and_is_private_inside(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (tmp_path / "library").symlink_to(shared)
    store(Library(tmp_path / "library"))
    inside = [path for path in shared.rglob("*") if path.name != "CACHEDIR.TAG"]
    assert inside and all(path.stat().st_mode & 0o077 == 0 for path in inside)


@pytest.mark.parametrize("umask", [0o000, 0o777 ^ 0o700])
def test_nothing_is_open_under_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store(Library(tmp_path / "made/library"))
    finally:
        os.umask(before)
    for path in (tmp_path / "made/library").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("in_place", ["a file", "a loop", "a long name", "below a file"])
def test_a_directory_that_cannot_be_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cca: Cca, in_place: str
) -> None:
    path = tmp_path / "it"
    if in_place == "a loop":
        path.symlink_to(path)
    elif in_place == "a long name":
        path = tmp_path / ("a" * 500)
    else:
        path.write_text("")
        path = path / "below" if in_place == "below a file" else path
    monkeypatch.setenv("CCA_CACHE_DIR", str(path))
    code, _, err = cca("docs", "ls", "--json")
    assert code == 7 and "CCA_HOME" in json.loads(err)["error"]["hint"]


@pytest.mark.parametrize("size", ["9" * 5000, "1e999GB", "nan", "-5"])
def test_no_size_is_a_bug(
    library: Library, monkeypatch: pytest.MonkeyPatch, cca: Cca, size: str
) -> None:
    monkeypatch.setenv("CCA_LIBRARY_SIZE", size)
    code, _, err = cca("docs", "prune", "--json")
    assert code == 2 and "expected a size" in json.loads(err)["error"]["message"]
