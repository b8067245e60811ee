"""Room in the library: sizes, the cap, what goes first, and what stays."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from library_entries import SETTINGS, WANTED, store, text_of

from cca_cli.errors import UsageError
from cca_cli.library import Library
from cca_cli.library_entry import Entry, Fingerprint
from cca_cli.library_files import disk_bytes, file_sha256
from cca_cli.library_prune import prune_library
from cca_cli.library_space import DEFAULT_CAP, make_room, parse_size, size_cap, tenants, told_of


def other(name: str) -> Fingerprint:
    """Make the fingerprint of another document."""
    return replace(WANTED, document_sha256=name)


def used_at(entry: Entry, seconds: float) -> None:
    """Set when an entry was last used."""
    os.utime(entry.path / "manifest.json", (seconds, seconds))


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Three entries: a used longest ago, then b, then c."""
    library = Library(tmp_path / "library")
    for at, name in enumerate("abc"):
        used_at(store(library, other(name), name=f"{name}.txt"), 1e9 + at)
    return library


def names(library: Library) -> list[str]:
    """List the names of the documents that are there."""
    return sorted(entry.manifest["document"]["name"] for entry in library.entries())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1500", 1500),
        ("2k", 2048),
        ("20GB", 20 * 1024**3),
        ("20 GiB", 20 * 1024**3),
        ("1.5g", 3 * 1024**3 // 2),
        ("500MB", 500 * 1024**2),
        ("1TB", 1024**4),
        ("none", None),
        ("Unlimited", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text, name="--max-size") == size


@pytest.mark.parametrize("text", ["", "big", "-1", "1.2.3", "5 apples", "1e9", "GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--max-size: expected a size"):
        parse_size(text, name="--max-size")


def test_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CCA_LIBRARY_SIZE", raising=False)
    assert 0 < (size_cap(tmp_path / "not/there/yet") or 0) <= DEFAULT_CAP
    monkeypatch.setenv("CCA_LIBRARY_SIZE", "3MB")
    assert size_cap(tmp_path) == 3 * 1024**2
    monkeypatch.setenv("CCA_LIBRARY_SIZE", "none")
    assert size_cap(tmp_path) is None
    monkeypatch.setenv("CCA_LIBRARY_SIZE", "much")
    with pytest.raises(UsageError, match="CCA_LIBRARY_SIZE"):
        size_cap(tmp_path)


def test_what_was_used_longest_ago_goes_first(library: Library) -> None:
    each = disk_bytes(next(library.entries()).path)
    removed = make_room(library, 2 * each)
    assert [tenant.name for tenant in removed.gone] == ["a.txt"]
    assert names(library) == ["b.txt", "c.txt"]
    assert removed.left == sum(tenant.bytes for tenant in tenants(library)) <= 2 * each


def test_within_a_second_the_order_of_use_counts(library: Library) -> None:
    a, b, c = (library.path_of(other(name)) for name in "abc")
    for at, path in enumerate((c, a, b)):
        os.utime(path / "manifest.json", ns=(0, 10**18 + at * 10**7))
    assert [tenant.path for tenant in tenants(library)] == [c, a, b]


def test_use_counts(library: Library) -> None:
    entry = Entry.open(library.path_of(other("a")))
    assert entry is not None
    entry.touch()
    make_room(library, disk_bytes(entry.path))
    assert names(library) == ["a.txt"]


def test_what_is_in_use_or_spared_stays(library: Library) -> None:
    lease = library.use(other("a"))
    removed = make_room(library, 0, spare=[other("b").key])
    assert [tenant.name for tenant in removed.gone] == ["c.txt"]
    assert [tenant.name for tenant in removed.kept] == ["a.txt"]
    assert lease is not None and names(library) == ["a.txt", "b.txt"]
    first, second = told_of(removed, 0)
    assert first.startswith("library: removed c.txt (") and "more than its 0 bytes" in second


def test_no_cap_and_room_enough_say_nothing(library: Library) -> None:
    for cap in (None, 10**9):
        removed = make_room(library, cap)
        assert removed.gone == () and told_of(removed, cap) == []


def test_unfinished_and_unreadable_entries_count(library: Library) -> None:
    text = text_of()
    draft = library.open_draft(other("d"), SETTINGS)
    draft.start(text)
    os.utime(draft.path, (1e9 - 1, 1e9 - 1))
    (library.path_of(other("a")) / "manifest.json").write_bytes(b"{")
    os.utime(library.path_of(other("a")) / "manifest.json", (1e9 - 2, 1e9 - 2))
    assert [tenant.path.name for tenant in tenants(library)][:2] == [
        other("a").key,
        draft.path.name,
    ]
    total = sum(tenant.bytes for tenant in tenants(library))
    removed = make_room(library, total - 1)
    assert [tenant.ready for tenant in removed.gone] == [True]
    make_room(library, 0)
    assert library.directories() == []


def test_pruning_what_was_not_used(library: Library) -> None:
    entry = Entry.open(library.path_of(other("b")))
    assert entry is not None
    entry.touch()
    dry = prune_library(library, cap=None, unused_days=30, dry_run=True)
    assert [tenant.name for tenant in dry.gone] == ["a.txt", "c.txt"] and len(names(library)) == 3
    wet = prune_library(library, cap=None, unused_days=30)
    assert (wet.gone, wet.left) == (dry.gone, dry.left)
    assert names(library) == ["b.txt"]


def test_a_dry_run_counts_nothing_twice(library: Library) -> None:
    dry = prune_library(library, cap=0, unused_days=30, dry_run=True)
    assert len(dry.gone) == 3 and dry.left == 0
    wet = prune_library(library, cap=0, unused_days=30)
    assert wet == dry and library.directories() == []


def test_pruning_what_is_out_of_date(tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in ("same", "changed", "gone"):
        file = shelf / name
        file.write_text(name)
        entry = store(library, other(file_sha256(file)), name=name)
        text = (entry.path / "manifest.json").read_text()
        (entry.path / "manifest.json").write_text(text.replace("/shelf/", f"{shelf}/"))
    # The directory itself is missing: a disk that is not mounted, perhaps.
    store(library, other("away"), name="away")
    (shelf / "changed").write_text("other")
    (shelf / "gone").unlink()
    removed = prune_library(library, cap=None, stale=True)
    assert sorted(tenant.name for tenant in removed.gone) == ["changed", "gone"]
    assert names(library) == ["away", "same"]
