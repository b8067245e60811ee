"""Export and import: what comes out is what went in, and nothing else gets in."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from library_entries import SETTINGS, WANTED, store, text_of

from cca_cli.errors import InputError, MissingMemoryError, ResourceError
from cca_cli.library import Hit, Library
from cca_cli.library_archive import Imported, export_entries, import_entries
from cca_cli.library_check import check, thorough_damage
from cca_cli.library_entry import Entry
from cca_cli.library_manifest import seal

Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A library of two entries."""
    library = Library(tmp_path / "library")
    store(library)
    store(library, replace(WANTED, pages="1-3"))
    return library


@pytest.fixture
def elsewhere(tmp_path: Path) -> Library:
    """A library that does not exist yet."""
    return Library(tmp_path / "elsewhere")


def exported(library: Library, *keys: str) -> bytes:
    """Export entries; all without keys."""
    stream = io.BytesIO()
    export_entries([e for e in library.entries() if not keys or e.key in keys], stream)
    return stream.getvalue()


def imported(content: bytes, library: Library) -> list[Imported]:
    """Import an archive."""
    stream = io.BytesIO(content)
    return list(import_entries(stream, library, name="it.cca", on_wait=lambda pid: None))


def changed(content: bytes, change: Change) -> bytes:
    """Change the members of an archive."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = []
        for member in archive:
            stream = archive.extractfile(member)
            assert stream is not None
            members.append((member, stream.read()))
    change(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, body in members:
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return out.getvalue()


def test_what_goes_out_comes_in(library: Library, elsewhere: Library) -> None:
    content = exported(library)
    done = imported(content, elsewhere)
    assert [one.new for one in done] == [True, True]
    for entry in library.entries():
        copy = Entry.open(elsewhere.root / entry.key)
        assert copy is not None and thorough_damage(copy, copy.path) is None
        for name in entry.manifest["files"]:
            assert (copy.path / name).read_bytes() == (entry.path / name).read_bytes()
            assert (copy.path / name).stat().st_mode & 0o777 == 0o600
        assert copy.path.stat().st_mode & 0o777 == 0o700
        assert copy.manifest["document"]["path"] == "book.txt", "no directory of the other machine"
    assert isinstance(elsewhere.lookup(WANTED, path="/x", settings=SETTINGS), Hit)
    text = next(e for e in elsewhere.entries() if e.key == WANTED.key).read_text()
    assert text.document.pages == text_of().document.pages


def test_what_is_there_stays_as_it_is(library: Library) -> None:
    before = {p: p.stat().st_mtime_ns for p in library.path_of(WANTED).iterdir()}
    assert [one.new for one in imported(exported(library), library)] == [False, False]
    assert {p: p.stat().st_mtime_ns for p in library.path_of(WANTED).iterdir()} == before


def test_a_damaged_entry_is_replaced(library: Library) -> None:
    content = exported(library)
    (library.path_of(WANTED) / "tokens.npy").write_bytes(b"short")
    assert sorted(one.new for one in imported(content, library)) == [False, True]
    assert all(finding.damage is None for finding in check(library))


def test_a_damaged_entry_is_not_exported(library: Library) -> None:
    file = library.path_of(WANTED) / "memory.safetensors"
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)
    with pytest.raises(MissingMemoryError, match=r"not exported, memory.safetensors is not what"):
        exported(library)


def test_every_cut_is_noticed(library: Library, elsewhere: Library) -> None:
    content = exported(library, WANTED.key)
    body = len(content.rstrip(b"\0"))
    for at in range(0, body, 397):
        with pytest.raises(InputError, match="not what cca docs export writes"):
            imported(content[:at], elsewhere)
        assert elsewhere.directories() == []


def rename(to: str) -> Change:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[1][0].name = to

    return change


def retype(kind: bytes) -> Change:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[1][0].type, members[1][0].linkname = kind, "/etc/passwd"
        members[1] = (members[1][0], b"")

    return change


def flip(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Change a bit of the last file."""
    member, body = members[-1]
    members[-1] = (member, body[:-1] + bytes([body[-1] ^ 1]))


def lengthen(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Add a byte to the last file."""
    members[-1] = (members[-1][0], members[-1][1] + b"x")


def drop_manifest(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Leave out the manifest."""
    del members[0]


def drop_file(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Leave out the last file."""
    del members[-1]


def remanifest(**fields: Any) -> Change:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        manifest = {**json.loads(members[0][1]), **fields}
        members[0] = (members[0][0], json.dumps(seal(manifest)).encode())

    return change


def unseal(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Change a manifest without sealing it again."""
    body = members[0][1].replace(b'"prefix_tokens": 2', b'"prefix_tokens": 3')
    assert body != members[0][1]
    members[0] = (members[0][0], body)


@pytest.mark.parametrize(
    "change",
    [
        rename("../../evil.txt"),
        rename("/etc/cron.d/evil"),
        rename(f"{WANTED.key}/../evil.npy"),
        rename(f"{WANTED.key}/evil.py"),
        rename(f"{'0' * 64}/text.jsonl"),
        retype(tarfile.SYMTYPE),
        retype(tarfile.LNKTYPE),
        retype(tarfile.FIFOTYPE),
        retype(tarfile.DIRTYPE),
        flip,
        lengthen,
        drop_manifest,
        drop_file,
        unseal,
        remanifest(key="0" * 64),
        remanifest(files={}),
        remanifest(files=None),
        remanifest(files={"../x": {"bytes": 1, "sha256": "0" * 64}}),
        remanifest(fingerprint={}),
        remanifest(document=None),
        remanifest(document={"name": "x"}),
        remanifest(tokens=11),
        remanifest(pages=4),
        remanifest(prefix_tokens="many"),
        remanifest(settings={"evil": 1}),
    ],
    ids=lambda change: change.__qualname__.replace(".<locals>", ""),
)
def test_what_was_tampered_with_stays_out(
    library: Library, elsewhere: Library, change: Change, tmp_path: Path
) -> None:
    content = changed(exported(library, WANTED.key), change)
    with pytest.raises(InputError, match="not what cca docs export writes"):
        imported(content, elsewhere)
    assert elsewhere.directories() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "library"] or (
        sorted(path.name for path in tmp_path.iterdir()) == ["library"]
    )
    left = [p for p in elsewhere.root.glob("**/*") if p.is_file() and ".locks" not in p.parts]
    assert [p.name for p in left] in ([], ["CACHEDIR.TAG"])


@pytest.mark.parametrize("content", [b"", b"x" * 2000, b"\0" * 10240, b"PK\3\4" + b"z" * 1000])
def test_what_is_no_archive(elsewhere: Library, content: bytes) -> None:
    with pytest.raises(InputError, match="not what cca docs export writes"):
        imported(content, elsewhere)


def test_what_came_before_the_fault_is_kept(library: Library, elsewhere: Library) -> None:
    content = exported(library)
    with pytest.raises(InputError):
        imported(content[: len(content.rstrip(b"\0")) - 10], elsewhere)
    assert len(elsewhere.directories()) == 1
    assert [finding.damage for finding in check(elsewhere)] == [None]


def test_a_disk_without_room_is_told_before(
    library: Library, elsewhere: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5, total=10))
    with pytest.raises(ResourceError, match="5 bytes are free"):
        imported(exported(library), elsewhere)
    assert elsewhere.directories() == []


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_as_long_as_the_memory_is_not_read(elsewhere: Library, kind: bytes) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, 1 << 40
    stream = Endless(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(InputError, match=r"not what cca docs export writes: a header of 1\.0 TiB"):
        list(import_entries(stream, elsewhere, name="it.cca", on_wait=lambda pid: None))
    assert stream.given < 1 << 20


class Endless(io.RawIOBase):
    """A stream with zeros behind its beginning."""

    def __init__(self, begin: bytes) -> None:
        self.left, self.given = begin, 0

    def read(self, size: int = -1) -> bytes:
        self.given += size
        assert self.given < 1 << 24, "it is read into memory"
        part, self.left = self.left[:size], self.left[size:]
        return part.ljust(size, b"\0")


def test_no_entry_stands_for_a_file_of_this_machine(library: Library, elsewhere: Library) -> None:
    def claim(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        manifest = json.loads(members[0][1])
        manifest["document"]["path"] = "/home/me/notes.txt"
        members[0] = (members[0][0], json.dumps(seal(manifest)).encode())

    with pytest.raises(InputError, match="does not agree with itself"):
        imported(changed(exported(library, WANTED.key), claim), elsewhere)
    assert elsewhere.directories() == []


@pytest.mark.parametrize("size", [float("inf"), "many", 10**30, -1])
def test_a_size_that_is_none(library: Library, elsewhere: Library, size: Any) -> None:
    def claim(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        manifest = json.loads(members[0][1])
        manifest["files"]["text.jsonl"]["bytes"] = size
        members[0] = (members[0][0], json.dumps(seal(manifest)).encode())

    with pytest.raises((InputError, ResourceError)):
        imported(changed(exported(library, WANTED.key), claim), elsewhere)
    assert elsewhere.directories() == []
