"""A thorough look at the library: does every entry hold what was written, and does it agree?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cca_cli.library import Library
from cca_cli.library_entry import Entry
from cca_cli.library_files import UNREADABLE
from cca_cli.library_manifest import SEAL, seal_of

__all__ = ["Finding", "check", "content_damage", "thorough_damage"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What the look at one entry found.

    Attributes:
        key: Of the entry.
        name: Of the document; None if the manifest cannot be read.
        damage: What is wrong, or None.
    """

    key: str
    name: str | None
    damage: str | None


def check(library: Library) -> Iterator[Finding]:
    """Look at all entries of a library, those without a readable manifest included."""
    for path in library.directories():
        if path.name.startswith("."):
            continue
        entry = Entry.open(path)
        if entry is not None:
            finding = finding_of(entry)
        elif path.is_dir():
            finding = Finding(path.name, None, "its manifest cannot be read")
        else:
            continue
        # Another process may have removed or replaced it while its files were hashed.
        if finding.damage is None or path.is_dir():
            yield finding


def finding_of(entry: Entry) -> Finding:
    """Look at one entry."""
    name = str(entry.manifest["document"]["name"])
    return Finding(entry.key, name, thorough_damage(entry, entry.path))


def thorough_damage(entry: Entry, path: Path) -> str | None:
    """Hash every file of an entry, and check that its parts agree with each other.

    Args:
        entry: The entry.
        path: Where it lies, under its key.

    Returns:
        What is wrong, or None.
    """
    manifest = entry.manifest
    if SEAL in manifest and manifest[SEAL] != seal_of(manifest):
        return "manifest.json is not what was written"
    if not entry.fingerprint.key == entry.key == path.name:
        return "it lies under a key that is not its own"
    return entry.damage(thorough=True) or content_damage(entry)


def content_damage(entry: Entry) -> str | None:
    """Check that manifest, pages and tokens of an entry agree; None if they do."""
    try:
        text = entry.read_text()
    except (OSError, *UNREADABLE) as error:
        return f"its text or tokens cannot be read ({type(error).__name__})"
    if text.ids.ndim != 1 or text.ids.dtype.name != "uint32":
        return "tokens.npy holds no token ids"
    counted = text.prefix_tokens + sum(text.page_tokens)
    if not counted == len(text.ids) == entry.manifest["tokens"]:
        return "pages and tokens do not agree"
    if len(text.document.pages) != entry.manifest["pages"]:
        return "text.jsonl lacks pages"
    return None
