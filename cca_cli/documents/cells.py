"""Tables on their way into blocks: cells fill up, and each row becomes a line when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from cca_cli.documents.blocks import BlockWriter, table_row

__all__ = ["Tables"]

# More than this in one cell, and the table arranges a page rather than data.
MAX_CELL = 1000


@dataclass(slots=True)
class _Table:
    rows: int = 0
    cells: list[list[str]] = field(default_factory=list)


class Tables:
    """The tables that are open, one within the other.

    A row of an inner table becomes part of the cell around it. A row with a page's worth of text
    in a cell becomes paragraphs.
    """

    def __init__(self, blocks: BlockWriter) -> None:
        self._blocks = blocks
        self._open: list[_Table] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def begin_table(self) -> None:
        """Begin a table."""
        self._open.append(_Table())

    def begin_row(self) -> None:
        """Begin a row of the innermost table."""
        if self._open:
            self._open[-1].cells = []

    def begin_cell(self) -> None:
        """Begin a cell of the current row."""
        if self._open:
            self._open[-1].cells.append([])

    def add(self, text: str) -> bool:
        """Put a paragraph into the current cell; return False if there is none."""
        if not (self._open and self._open[-1].cells):
            return False
        self._open[-1].cells[-1].append(text)
        return True

    def end_row(self) -> None:
        """Write the current row."""
        if not self._open:
            return
        table = self._open[-1]
        cells = [" ".join(texts) for texts in table.cells]
        if len(self._open) > 1 and self._open[-2].cells:
            self._open[-2].cells[-1].append(table_row(cells))
        elif max(map(len, cells), default=0) > MAX_CELL:
            for text in (text for texts in table.cells for text in texts):
                self._blocks.paragraph(text)
        else:
            self._blocks.row(cells, first=table.rows == 0)
        table.rows += 1
        table.cells = []

    def end_table(self) -> None:
        """End the innermost table."""
        if self._open:
            self._open.pop()
