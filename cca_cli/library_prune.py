"""What `cca docs prune` removes beyond what does not fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cca_cli.library import Library
from cca_cli.library_files import file_sha256
from cca_cli.library_space import Removed, Tenant, make_room, remove_all, tenants
from cca_cli.library_sweep import sweep

__all__ = ["prune_library"]


def prune_library(
    library: Library,
    *,
    cap: int | None,
    unused_days: int | None = None,
    stale: bool = False,
    dry_run: bool = False,
) -> Removed:
    """Remove what is out of date, then what was used longest ago until the rest fits.

    Args:
        library: The library.
        cap: Bytes that it may hold; None for no limit.
        unused_days: Remove what was not used for so many days.
        stale: Remove documents whose file is gone or has changed since.
        dry_run: Say what would go, and remove nothing.
    """
    if not dry_run:
        sweep(library)
    inside = tenants(library)
    total = sum(tenant.bytes for tenant in inside)
    now = datetime.now(UTC)
    chosen = [
        tenant
        for tenant in inside
        if (unused_days is not None and now - tenant.last_used > timedelta(days=unused_days))
        or (stale and is_stale(tenant))
    ]
    first = remove_all(library, chosen, total=total, dry_run=dry_run)
    if dry_run:
        gone = {tenant.key for tenant in first.gone}
        rest = [tenant for tenant in inside if tenant.key not in gone]

        def enough(freed: int) -> bool:
            return cap is None or first.left - freed <= cap

        second = remove_all(library, rest, total=first.left, enough=enough, dry_run=True)
    else:
        second = make_room(library, cap)
    kept = {tenant.key: tenant for tenant in (*first.kept, *second.kept)}
    return Removed(gone=(*first.gone, *second.gone), kept=tuple(kept.values()), left=second.left)


def is_stale(tenant: Tenant) -> bool:
    """Whether the file of a document is gone or holds something else by now.

    What came through a pipe or from another machine has no file, and is never stale.
    """
    path = Path(tenant.document)
    if not tenant.document or not path.is_absolute():
        return False
    try:
        return file_sha256(path) != tenant.sha256
    except FileNotFoundError:
        # On a disk that is not mounted at the moment the directory is missing, too.
        return path.parent.is_dir()
    except OSError:
        return False
