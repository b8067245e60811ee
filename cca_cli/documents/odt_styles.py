"""Styles of an OpenDocument text: titles, program code, and which lists are numbered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["STYLE", "TEXT", "Styles"]

TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
STYLE = "{urn:oasis:names:tc:opendocument:xmlns:style:1.0}"
# Deeper than any style sheet of people; ends chains that run in circles.
MAX_BASES = 20


class Styles:
    """The styles of a document by name.

    Args:
        roots: Root elements that define styles; later ones win.
    """

    def __init__(self, roots: Sequence[Any]) -> None:
        self._parents: dict[str, str | None] = {}
        self._lists: dict[str, dict[int, str]] = {}
        for root in roots:
            for style in root.iter(STYLE + "style"):
                if style.get(STYLE + "family") == "paragraph":
                    parent = style.get(STYLE + "parent-style-name")
                    self._parents[style.get(STYLE + "name")] = parent
            for style in root.iter(TEXT + "list-style"):
                self._lists[style.get(STYLE + "name")] = {
                    place: level.get(STYLE + "num-format") or ""
                    for place, level in enumerate(style)
                }

    def named(self, name: str | None) -> str:
        """Return the style of people's making or Writer's own that an automatic style stands for.

        Args:
            name: A paragraph's style, or None.
        """
        for _ in range(MAX_BASES):
            if name is None or name in ("Title", "Preformatted_20_Text"):
                break
            parent = self._parents.get(name)
            if parent is None:
                break
            name = parent
        return name or ""

    def is_numbered(self, name: str | None, level: int) -> bool:
        """Return whether a list's items bear numbers at a level from 0."""
        return bool(self._lists.get(name or "", {}).get(level))
