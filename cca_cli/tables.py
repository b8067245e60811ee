"""What fits a terminal; long tables, without the time that laying them out well takes."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Sequence

__all__ = ["MANY_ROWS", "aligned", "fitting"]

MANY_ROWS = 100
"""From here on a table is only aligned: rich needs three seconds for a thousand rows."""


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Return a table in columns as wide as their widest cell; the terminal folds long lines.

    Args:
        header: Names of the columns.
        rows: Cells, one for every column.
        right: Whether a column is aligned to the right.
    """
    lines = [header, *rows]
    widths = [[_width(cell) for cell in line] for line in lines]
    widest = [max(column) for column in zip(*widths, strict=True)]
    out = []
    for line, sizes in zip(lines, widths, strict=True):
        cells = [
            " " * (most - size) + cell if to_right else cell + " " * (most - size)
            for cell, size, most, to_right in zip(line, sizes, widest, right, strict=True)
        ]
        out.append("  ".join(cells).rstrip() + "\n")
    return "".join(out)


def fitting(
    header: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str]
) -> list[int]:
    """Return the places of the columns that a terminal has room for, side by side.

    Args:
        header: Names of the columns.
        rows: Cells, one for every column.
        spare: Columns that may be left out, the first one first; the others stay.
    """
    widest = [max(map(_width, column)) for column in zip(header, *rows, strict=True)]
    room = shutil.get_terminal_size().columns
    shown = list(range(len(header)))
    for name in spare:
        if sum(widest[at] + 2 for at in shown) - 2 <= room:
            break
        shown.remove(header.index(name))
    return shown


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)
