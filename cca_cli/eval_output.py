"""The results of ``cca eval`` as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cca_cli.bench_output import markdown_table

if TYPE_CHECKING:
    from cca_models.evaluation.types import Cell, Table, TaskResult

__all__ = ["json_value", "provenance_line", "table_text"]


def table_text(table: Table) -> str:
    """Write a task's title, its table in Markdown, and its notes; ends without a newline."""
    from cca_models.evaluation.types import Figure

    figures = {
        name
        for i, name in enumerate(table.columns)
        if any(isinstance(line[i], Figure) for line in table.lines)
    }
    text = {
        name
        for i, name in enumerate(table.columns)
        if any(isinstance(line[i], str) for line in table.lines)
    }
    # Where all figures of a line are of equally many values, these are said once.
    counts = [{cell.n for cell in line if isinstance(cell, Figure)} for line in table.lines]
    once = bool(figures) and all(len(found) <= 1 for found in counts)
    header = [*table.columns, *(["n"] if once else [])]
    lines = [
        [*(_text(cell, n=not once) for cell in line), *(["".join(map(str, found))] if once else [])]
        for line, found in zip(table.lines, counts, strict=True)
    ]
    parts = [table.title, ""]
    parts.append(markdown_table(header, lines, text=text) if lines else "(nothing to show)")
    if table.notes:
        parts += ["", *table.notes]
    return "\n".join(parts)


def _text(cell: Cell, *, n: bool) -> str:
    """Write a cell; of a figure the mean, its 95 % interval and, if asked for, the count."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell.replace("|", "/").replace("\n", " ")
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.3f}"
    scale, digits = (100, 1) if cell.percent else (1, 2)
    low, mean, high = (f"{scale * x:.{digits}f}" for x in (cell.low, cell.mean, cell.high))
    return f"{mean} [{low}, {high}]" + (f" ({cell.n:,})" if n else "")


def json_value(
    results: Sequence[TaskResult], provenance: Mapping[str, Any], comparison: Table | None = None
) -> dict[str, Any]:
    """Build the object of --json; means and intervals are fractions where `percent` is true."""
    return {
        "provenance": dict(provenance),
        "tasks": [
            {**_table_value(result.table), "failed": list(result.failed)} for result in results
        ],
        "comparison": _table_value(comparison) if comparison is not None else None,
    }


def _table_value(table: Table) -> dict[str, Any]:
    return {
        "task": table.task,
        "title": table.title,
        "notes": list(table.notes),
        "lines": [dict(zip(table.columns, map(_value, line), strict=True)) for line in table.lines],
    }


def _value(cell: Cell) -> Any:
    from cca_models.evaluation.types import Figure

    return asdict(cell) if isinstance(cell, Figure) else cell


def provenance_line(provenance: Mapping[str, Any]) -> str:
    """Sum it up in one line."""
    return " · ".join(
        (
            f"cca {provenance['version']}",
            f"torch {provenance['torch']}",
            f"{provenance['device_name']} ({provenance['device']})",
            provenance["dtype"],
            provenance["model"],
            f"adapter {provenance['adapter']}",
            f"G {provenance['group_size']} W {provenance['window']:,}",
            f"seed {provenance['seed']}",
            provenance["time"],
        )
    )
