"""Documents as arguments: files, directories and patterns, with a word on what is left out."""

from __future__ import annotations

from collections.abc import Sequence

from cca_cli.console import Console

__all__ = ["collect_documents"]


def collect_documents(console: Console, paths: Sequence[str]) -> list[str]:
    """Replace directories and patterns among arguments by the documents they stand for.

    Args:
        console: Told what is left out.
        paths: As given.

    Raises:
        InputError: If one stands for no document.
    """
    from cca_cli.documents.collect import collect

    found = collect(paths)
    if found.skipped:
        count = len(found.skipped)
        path, reason = found.skipped[0]
        files = f"{count} files are no documents" if count > 1 else "1 file is no document"
        console.note(f"cca: {files} and left out ({path}: {reason})")
        for path, reason in found.skipped[1:]:
            console.detail(f"left out: {path}: {reason}")
    return found.files
