"""What the shell offers when Tab is pressed: documents of the library, models, words of options.

A shell waits for these, so they read no more than names, import nothing heavy, and where
something is wrong they offer nothing rather than say so. What is offered is pasted into a command
line, and some shells evaluate it: only names that mean themselves there are offered as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

__all__ = ["complete_adapters", "complete_devices", "complete_documents", "complete_models"]

_OFFERED = 200
# No blank, quote, glob, variable or separator of any shell.
_PLAIN = re.compile(r"[\w/.,+=@%-]+")
_NOT_PLAIN = re.compile(r"[^\w/.,+=@% -]")


def complete_documents(incomplete: str) -> list[tuple[str, str]]:
    """Offer the library's documents by name, by path once a path was begun, or by key."""
    found: dict[str, str] = {}
    for name, path, key in _documents():
        by_path = os.path.isabs(incomplete)
        offered, told = (path, name) if by_path else (name, path)
        if not _PLAIN.fullmatch(offered):
            offered, told = key, offered
        if offered.startswith(incomplete):
            found.setdefault(offered, _NOT_PLAIN.sub("_", told))
        if len(found) >= _OFFERED:
            break
    return sorted(found.items())


def complete_models(incomplete: str) -> list[str]:
    """Offer the models on this machine, and the default one; the shell adds directories."""
    from cca_cli.model_loading import DEFAULT_MODEL

    names = {DEFAULT_MODEL, *filter(_PLAIN.fullmatch, _models())}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_adapters(incomplete: str) -> list[tuple[str, str]]:
    """Offer the two words that --adapter knows; the shell adds directories."""
    words = [("default", "what ships with cca for its model"), ("none", "the plain checkpoint")]
    return [(word, told) for word, told in words if word.startswith(incomplete)]


def complete_devices(incomplete: str) -> list[str]:
    """Offer the kinds of device."""
    words = ("auto", "cpu", "cuda", "mps")
    return [word for word in words if word.startswith(incomplete)]


def _documents() -> Iterator[tuple[str, str, str]]:
    """Go through the library: name, path, and as much of the key as names an entry."""
    try:
        # Listing the commands must not wait for what only the library needs.
        from cca_cli.library import Library
        from cca_cli.paths import library_dir

        for row in Library(library_dir()).listing():
            if row["name"] is not None:
                yield str(row["name"]), str(row["path"]), str(row["key"])[:12]
    except Exception:
        return


def _models() -> list[str]:
    try:
        from cca_models.model_store import stored

        return [path.name.replace("--", "/", 1) for path in stored()]
    except Exception:
        return []
