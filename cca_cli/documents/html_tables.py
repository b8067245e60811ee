"""The rows of an HTML table, with the cells that reach over several rows in each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

__all__ = ["table_rows"]

# More than this in one cell, and the table arranges a page rather than data.
MAX_CELL = 1000
# What stands for several rows is repeated in each of them, if it is no longer than this.
MAX_REPEATED = 80


def table_rows(table: LexborNode, text_of: Callable[[LexborNode], str]) -> list[list[str]] | None:
    """Return the text of every cell, row by row; None if it is no table of data.

    Args:
        table: A table without tables in it.
        text_of: Makes a cell's text.
    """
    rows: list[list[str]] = []
    # Column -> how many more rows the cell above reaches into, and its text.
    reaching: dict[int, tuple[int, str]] = {}
    for row in table.css("tr"):
        cells: list[str] = []
        below: dict[int, tuple[int, str]] = {}
        for cell in [*(c for c in row.iter() if c.tag in ("td", "th")), None]:
            while len(cells) in reaching:
                left, text = reaching[len(cells)]
                if left > 1:
                    below[len(cells)] = (left - 1, text)
                cells.append(text)
            if cell is None:
                break
            text = text_of(cell)
            if len(text) > MAX_CELL:
                return None
            rowspan = cell.attributes.get("rowspan") or ""
            if rowspan.isascii() and rowspan.isdigit() and int(rowspan[:6]) > 1:
                repeated = text if len(text) <= MAX_REPEATED else ""
                below[len(cells)] = (int(rowspan[:6]) - 1, repeated)
            cells.append(text)
        reaching = below
        rows.append(cells)
    return rows
