"""Why an entry of the same document does not serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from cca_cli.library_entry import Entry, Fingerprint, Settings

__all__ = ["why_not"]


def why_not(entries: Sequence[Entry], wanted: Fingerprint, settings: Settings) -> str:
    """Say in what the nearest of some entries differs from what is wanted.

    Args:
        entries: Entries of the same document; at least one.
        wanted: What none of them is.
        settings: The settings wanted, in words.
    """

    def distance(entry: Entry) -> tuple[int, int]:
        differ = _differences(entry.fingerprint, wanted)
        # A model's fingerprint differs by one, whether its adapter does or all of its settings.
        had = entry.settings
        named = [f.name for f in fields(Settings)]
        return len(differ), sum(getattr(had, n) != getattr(settings, n) for n in named)

    nearest = min(entries, key=distance)
    return _difference(nearest, wanted, settings)


def _differences(found: Fingerprint, wanted: Fingerprint) -> list[str]:
    names = [field.name for field in fields(Fingerprint)]
    return [name for name in names if getattr(found, name) != getattr(wanted, name)]


def _difference(entry: Entry, wanted: Fingerprint, settings: Settings) -> str:
    """Name the first thing in which the nearest entry differs, the most telling one first."""
    found, had = entry.fingerprint, entry.settings
    if had.model != settings.model:
        return f"read with another model: {had.model}"
    if had.group_size != settings.group_size:
        return f"read with group_size {had.group_size}"
    if had.window != settings.window:
        return f"read with window {had.window}"
    if had.dtype != settings.dtype:
        return f"read with dtype {had.dtype}"
    if found.pages != wanted.pages:
        return f"read with other pages: {found.pages}"
    if found.reading != wanted.reading:
        return f"read with another reader version: {_other(found.reading, wanted.reading)}"
    if found.tokenizer != wanted.tokenizer:
        return "read with another tokenizer"
    if found.model != wanted.model:
        # Entries of the first release do not say which adapter they were read with.
        if "made_by" in entry.manifest and had.adapter != settings.adapter:
            return f"read with {_adapter(had)}, not with {_adapter(settings)}"
        return f"read with another version or adapter of the model {had.model}"
    if found.prefix_sha256 != wanted.prefix_sha256:
        return "read under another prompt"
    version = entry.manifest.get("made_by")
    by = f"cca {version}" if version else "another version of cca"
    return f"read by {by} (library format {found.format_version})"


def _other(found: str, wanted: str) -> str:
    """Name the parts of a recipe that another lacks; all of it if it has only fewer."""
    parts = [part for part in found.split(", ") if part not in wanted.split(", ")]
    return ", ".join(parts) or found


def _adapter(settings: Settings) -> str:
    return f"adapter {settings.adapter}" if settings.adapter else "no adapter"
