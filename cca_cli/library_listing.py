"""What listings say of directories that are no finished entry."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cca_cli.library_draft import STATE
from cca_cli.library_files import UNREADABLE, disk_bytes, read_json

__all__ = ["broken_row", "draft_row"]


def draft_row(path: Path) -> dict[str, Any] | None:
    """Describe an entry in the making; None if it cannot be read, or is gone by now."""
    state = read_json(path / STATE)
    if not isinstance(state, dict):
        return None
    try:
        done, tokens = int(state["done"]), int(state["tokens"])
        return {
            "key": state["key"],
            "name": state["document"]["name"],
            "path": state["document"]["path"],
            "sha256": state["document"]["sha256"],
            "pages": state["pages"],
            "selection": state["fingerprint"]["pages"],
            "tokens": tokens,
            **state["settings"],
            "bytes": disk_bytes(path),
            "created": None,
            "last_used": None,
            "state": f"unfinished, {100 * done // max(tokens, 1)} %",
            "done": done,
        }
    except (OSError, *UNREADABLE):
        return None


def broken_row(path: Path) -> dict[str, Any] | None:
    """Describe an entry whose manifest cannot be read; None if it is gone by now."""
    nothing = ("name", "path", "sha256", "pages", "selection", "tokens", "model", "created")
    try:
        return {
            "key": path.name,
            **dict.fromkeys(nothing),
            "bytes": disk_bytes(path),
            "last_used": datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(
                timespec="seconds"
            ),
            "state": "damaged: its manifest cannot be read",
        }
    except OSError:
        return None
