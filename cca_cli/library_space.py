"""How much disk the library may take, and what goes when it takes more.

What was used longest ago goes first. Entries in use and drafts in the making stay, whatever the
cap says; an interrupted draft counts from when it was last written to.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cca_cli.errors import UsageError
from cca_cli.formatting import format_bytes
from cca_cli.library_entry import MANIFEST
from cca_cli.library_files import disk_bytes, key_of

if TYPE_CHECKING:
    from cca_cli.library import Library

__all__ = [
    "Removed",
    "Tenant",
    "make_room",
    "parse_size",
    "remove_all",
    "size_cap",
    "tenants",
    "told_of",
]

VARIABLE = "CCA_LIBRARY_SIZE"
DEFAULT_CAP = 20 * 1024**3
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_LONGEST = 40
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenant:
    """A directory that takes disk in the library: an entry, a draft, or what is left of one.

    Attributes:
        path: The directory.
        key: Of the entry.
        name: Of the document; the start of the key where it cannot be read.
        document: Absolute path of the document's file, "-" or "".
        sha256: Digest of the document, or "".
        last_used: When it was last used, or a draft last written to; UTC.
        bytes: What its files hold.
        ready: Whether it is a finished entry.
    """

    path: Path
    key: str
    name: str
    document: str
    sha256: str
    last_used: datetime
    bytes: int
    ready: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What was removed, or would be.

    Attributes:
        gone: What went, in that order.
        kept: What should have gone and is in use.
        left: Bytes that the library holds now.
    """

    gone: tuple[Tenant, ...]
    kept: tuple[Tenant, ...]
    left: int

    @property
    def bytes(self) -> int:
        """Bytes freed."""
        return sum(tenant.bytes for tenant in self.gone)


def parse_size(text: str, *, name: str) -> int | None:
    """Read a size: ``20GB``, ``500 MiB``, ``1.5g``; units are binary. None for ``none``.

    Args:
        text: What the user wrote.
        name: Of the option or variable, for the error.

    Raises:
        UsageError: If it is no size.
    """
    if text.strip().lower() in ("none", "off", "unlimited"):
        return None
    found = _SIZE.fullmatch(text.strip()[:_LONGEST])
    if found is None or len(text) > _LONGEST:
        raise UsageError(
            f"{name}: expected a size such as 20GB, 500MB or none, got {text[:_LONGEST]!r}",
            hint=f"{name} 20GB is what the library may take at most",
        )
    return int(float(found[1]) * _UNITS[found[2].lower()])


def size_cap(root: Path) -> int | None:
    """Return the most bytes that a library may take; None for no limit.

    ``CCA_LIBRARY_SIZE``, else 20 GiB, or a tenth of the disk where that is less.

    Args:
        root: Its directory, which need not exist yet.

    Raises:
        UsageError: If the variable holds no size.
    """
    if own := os.environ.get(VARIABLE):
        return parse_size(own, name=VARIABLE)
    while not root.exists():
        root = root.parent
    return min(DEFAULT_CAP, shutil.disk_usage(root).total // 10)


def tenants(library: Library) -> list[Tenant]:
    """Return all that takes disk in a library, used longest ago first."""
    rows = {str(row["key"]): row for row in library.listing()}
    found = []
    for path in library.directories():
        key = key_of(path)
        ready = path.name == key
        row = rows.get(key, {})
        manifest = path / MANIFEST
        try:
            when = _written(manifest if manifest.exists() else path)
            size = disk_bytes(path)
        except OSError:
            continue
        found.append(
            Tenant(
                path=path,
                key=key,
                name=str(row.get("name") or key[:12]),
                document=str(row.get("path") or ""),
                sha256=str(row.get("sha256") or ""),
                last_used=when,
                bytes=size,
                ready=ready,
            )
        )
    return sorted(found, key=lambda tenant: tenant.last_used)


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def make_room(
    library: Library, cap: int | None, *, spare: Iterable[str] = (), dry_run: bool = False
) -> Removed:
    """Remove what was used longest ago until the library holds no more than its cap.

    Args:
        library: The library.
        cap: Bytes; None for no limit.
        spare: Keys of entries that stay in any case.
        dry_run: Say what would go, and remove nothing.
    """
    spared = set(spare)
    inside = tenants(library)
    total = sum(tenant.bytes for tenant in inside)

    def enough(freed: int) -> bool:
        return cap is None or total - freed <= cap

    candidates = [tenant for tenant in inside if tenant.key not in spared]
    return remove_all(library, candidates, total=total, enough=enough, dry_run=dry_run)


def remove_all(
    library: Library,
    candidates: Iterable[Tenant],
    *,
    total: int,
    enough: Callable[[int], bool] = lambda freed: False,
    dry_run: bool = False,
) -> Removed:
    """Remove tenants in order, leaving those in use.

    Args:
        library: The library.
        candidates: What may go.
        total: Bytes that the library holds now.
        enough: Told the bytes freed so far; ends the removal.
        dry_run: Say what would go, and remove nothing.
    """
    gone: list[Tenant] = []
    kept: list[Tenant] = []
    freed = 0
    for tenant in candidates:
        if enough(freed):
            break
        if library.evict(tenant.path, dry_run=dry_run):
            gone.append(tenant)
            freed += tenant.bytes
        else:
            kept.append(tenant)
    return Removed(gone=tuple(gone), kept=tuple(kept), left=total - freed)


def told_of(removed: Removed, cap: int | None) -> list[str]:
    """Say what was removed to make room, and what could not be; no lines if all is well."""
    if cap is None or (removed.left <= cap and not removed.gone):
        return []
    lines = []
    if removed.gone:
        names = ", ".join(tenant.name for tenant in removed.gone[:3])
        more = f" and {len(removed.gone) - 3} more" if len(removed.gone) > 3 else ""
        lines.append(
            f"library: removed {names}{more} ({format_bytes(removed.bytes)}, used longest ago) "
            f"to stay under {format_bytes(cap)}"
        )
    if removed.left > cap:
        lines.append(
            f"library: holds {format_bytes(removed.left)}, more than its {format_bytes(cap)}; "
            f"{VARIABLE} sets another size"
        )
    return lines
