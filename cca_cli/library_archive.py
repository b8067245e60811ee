"""Entries as one file, to carry a library to another machine or to keep a copy.

A plain tar: for every entry its manifest first, then the files that the manifest names, under
``<key>/``. It streams through a pipe both ways. Nothing is ever unpacked by the names in it: a
member must be a plain file with a name that an entry has, and of the size and digest that the
manifest says.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cca_cli.errors import InputError, MissingMemoryError, ResourceError
from cca_cli.formatting import format_bytes
from cca_cli.library import Library
from cca_cli.library_check import thorough_damage
from cca_cli.library_draft import Draft
from cca_cli.library_entry import FILES, MANIFEST, NEEDED, Entry
from cca_cli.library_files import (
    DRAFT_PREFIX,
    UNREADABLE,
    encode_json,
    make_private_dir,
    remove_tree,
    tag_cache,
    write_with,
)
from cca_cli.library_manifest import seal

__all__ = ["Imported", "export_entries", "import_entries"]

_MEMBER = re.compile(r"([0-9a-f]{64})/([a-z]+\.[a-z]+)")
_MAX_MANIFEST = 64 * 1024**2
_MAX_HEADER = 64 * 1024
_EXTRA_HEADERS = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
_BLOCK = 1024**2


@dataclass(frozen=True, slots=True)
class Imported:
    """An entry that an archive held.

    Attributes:
        entry: The entry in the library.
        new: False if the library had it already.
    """

    entry: Entry
    new: bool


def export_entries(entries: Iterable[Entry], stream: IO[bytes]) -> int:
    """Write entries to a stream. What they say of the file's directory stays at home.

    Args:
        entries: What to write; each is checked first.
        stream: Where to; need not be seekable.

    Returns:
        Bytes of the files written.

    Raises:
        MissingMemoryError: If an entry is damaged.
    """
    written = 0
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            damage = thorough_damage(entry, entry.path)
            if damage is not None:
                raise MissingMemoryError(
                    f"{entry.manifest['document']['name']}: not exported, {damage}",
                    hint=f"cca docs rm {entry.key[:12]}, then read it again",
                )
            manifest = _portable(entry)
            archive.addfile(_member(entry.key, MANIFEST, len(manifest)), io.BytesIO(manifest))
            for name, record in entry.manifest["files"].items():
                with open(entry.path / name, "rb") as source:
                    archive.addfile(_member(entry.key, name, record["bytes"]), source)
                written += int(record["bytes"])
    return written


def _portable(entry: Entry) -> bytes:
    document = {**entry.manifest["document"], "path": entry.manifest["document"]["name"]}
    manifest = seal({**entry.manifest, "document": document})
    return encode_json(json.dumps(manifest, ensure_ascii=False))


def _member(key: str, name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(f"{key}/{name}")
    member.size, member.mode = size, 0o600
    return member


def import_entries(
    stream: IO[bytes], library: Library, *, name: str, on_wait: Callable[[str], None]
) -> Iterator[Imported]:
    """Read entries from a stream into the library, each complete or not at all.

    Args:
        stream: What `export_entries` wrote; need not be seekable.
        library: Where to.
        name: Of the archive, for errors.
        on_wait: Called with the holder if another process is making the same entry.

    Yields:
        The entries, as they are done.

    Raises:
        InputError: If the stream is no such archive, is cut short or was changed. Entries that
            came before are in the library.
        ResourceError: If an entry is larger than what the disk has free.
    """
    found = False
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
            members = iter(archive)
            for member in members:
                found = True
                key, file = _checked(member, name)
                if file != MANIFEST:
                    raise _bad(name, f"{file} comes before its manifest")
                yield _import_one(archive, members, member, library, name, key, on_wait)
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise _bad(name, str(error) or "it is cut short") from error
    if not found:
        raise _bad(name, "it is empty")


class _Member(tarfile.TarInfo):
    """A member whose extra headers, which are read into memory, are short ones."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # The one place at which a subclass may step in, says tarfile's source.
        if self.type in _EXTRA_HEADERS and self.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {format_bytes(self.size)}")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


def _bad(name: str, why: str) -> InputError:
    return InputError(f"{name}: not what cca docs export writes: {why}", hint="export it again")


def _checked(member: tarfile.TarInfo, name: str) -> tuple[str, str]:
    """Return key and file name of a member."""
    fitting = _MEMBER.fullmatch(member.name)
    if fitting is None or fitting[2] not in FILES | {MANIFEST}:
        raise _bad(name, f"it holds {member.name[:80]!r}")
    if not member.isreg() or member.issparse():
        raise _bad(name, f"{member.name} is not a plain file")
    return fitting[1], fitting[2]


def _import_one(
    archive: tarfile.TarFile,
    members: Iterator[tarfile.TarInfo],
    member: tarfile.TarInfo,
    library: Library,
    name: str,
    key: str,
    on_wait: Callable[[str], None],
) -> Imported:
    manifest = _manifest(archive, member, name)
    target = library.root / key
    entry = Entry(target, manifest)
    expected = _expected(entry, key, name)
    with ExitStack() as stack:
        make_private_dir(library.root)
        tag_cache(library.root)
        stack.enter_context(library.locks.hold(key, on_wait=on_wait))
        there = Entry.open(target)
        new = there is None or there.damage() is not None
        path = library.root / f"{DRAFT_PREFIX}{key}"
        if new:
            _expect_room(library.root, name, sum(int(r["bytes"]) for r in expected.values()))
            remove_tree(path)
            make_private_dir(path)
        try:
            for _ in expected:
                following = next(members, None)
                if following is None:
                    raise _bad(name, "it is cut short")
                owner, file = _checked(following, name)
                record = expected.get(file)
                if owner != key or record is None or following.size != record["bytes"]:
                    raise _bad(name, f"{following.name} is not what its manifest says")
                if new:
                    _copy(archive, following, path / file, str(record["sha256"]), name)
            if not new:
                assert there is not None
                return Imported(there, new=False)
            return Imported(_finish(entry, path, target, name), new=True)
        except BaseException:
            if new:
                remove_tree(path)
            raise


def _manifest(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> dict[str, Any]:
    if member.size > _MAX_MANIFEST:
        raise _bad(name, f"a manifest of {format_bytes(member.size)}")
    stream = archive.extractfile(member)
    try:
        manifest = json.loads(stream.read() if stream is not None else b"")
    except (ValueError, RecursionError) as error:
        raise _bad(name, "its manifest is not JSON") from error
    if not isinstance(manifest, dict):
        raise _bad(name, "its manifest is not an object")
    return manifest


def _expected(entry: Entry, key: str, name: str) -> dict[str, Any]:
    """Return the files that an entry must have, by name."""
    try:
        files = dict(entry.manifest["files"])
        fits = entry.key == entry.fingerprint.key == key
        fits = fits and NEEDED <= set(files) <= FILES
        fits = fits and all(int(r["bytes"]) >= 0 and len(r["sha256"]) == 64 for r in files.values())
        document = entry.manifest["document"]
        # A path would stand for a file of this machine, which the sender has not read.
        fits = fits and isinstance(document["name"], str) and document["path"] == document["name"]
    except UNREADABLE as error:
        raise _bad(name, "its manifest lacks a part") from error
    if not fits:
        raise _bad(name, "its manifest does not agree with itself")
    return files


def _expect_room(root: Path, name: str, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise ResourceError(
            f"{name}: needs {format_bytes(needed)}, {format_bytes(free)} are free at {root}",
            hint="cca docs prune --max-size SIZE makes room",
        )


def _copy(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, sha256: str, name: str
) -> None:
    stream = archive.extractfile(member)
    assert stream is not None
    digest = hashlib.sha256()

    def write(aside: Path) -> None:
        with open(aside, "xb") as out:
            while block := stream.read(_BLOCK):
                digest.update(block)
                out.write(block)

    write_with(path, write)
    if digest.hexdigest() != sha256:
        raise _bad(name, f"{member.name} is not what was written")


def _finish(entry: Entry, path: Path, target: Path, name: str) -> Entry:
    """Check that the parts agree, then let the entry appear."""
    content = encode_json(json.dumps(entry.manifest, ensure_ascii=False, indent=1) + "\n")

    def write(aside: Path) -> None:
        aside.write_bytes(content)

    write_with(path / MANIFEST, write)
    copied = Entry.open(path)
    damage = "it lacks a part" if copied is None else thorough_damage(copied, target)
    if copied is None or damage is not None:
        # Hashed a second time, from the disk; an archive is imported once.
        raise _bad(name, str(damage))
    return Draft.promote_at(path, target)
