"""From rows to tables: rows in groups, means with their intervals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cca_models.evaluation.metrics import confidence_interval
from cca_models.evaluation.types import Cell, Figure, Row


def figure(values: Iterable[float], *, seed: int = 0, percent: bool = True) -> Figure | None:
    """Give the mean with its interval; None without values."""
    listed = [float(value) for value in values]
    if not listed:
        return None
    low, high = confidence_interval(listed, seed=seed)
    mean = sum(listed) / len(listed)
    return Figure(mean=mean, low=low, high=high, n=len(listed), percent=percent)


def grouped(rows: Iterable[Row], *by: str) -> dict[tuple[Any, ...], list[Row]]:
    """Group rows by some of their fields, in the order in which groups first occur."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in by), []).append(row)
    return groups


def metric_lines(
    rows: Sequence[Row],
    by: Sequence[str],
    metrics: Sequence[str],
    *,
    show: Mapping[str, Callable[[Any], Cell]] | None = None,
) -> tuple[tuple[Cell, ...], ...]:
    """Make a line of each group: what it is grouped by, and a figure of each metric.

    Rows that lack a metric do not count for it.
    """
    lines = []
    for group, members in grouped(rows, *by).items():
        head = [(show or {}).get(name, _same)(value) for name, value in zip(by, group, strict=True)]
        figures = [
            figure(row["metrics"][name] for row in members if name in row["metrics"])
            for name in metrics
        ]
        lines.append((*head, *figures))
    return tuple(lines)


def in_order(rows: Sequence[Row], *, methods: Sequence[str] = ()) -> list[Row]:
    """Sort rows by length, then by method in a given order, then as they came."""
    rank = {name: place for place, name in enumerate(methods)}
    return sorted(
        rows, key=lambda row: (row.get("length") or 0, rank.get(row["method"], len(rank)))
    )


def length_name(tokens: int) -> str:
    """Write a length as people do: 32k for 32,768."""
    return f"{tokens // 1024}k" if tokens and tokens % 1024 == 0 else f"{tokens:,}"


def _same(value: Any) -> Cell:
    return value if isinstance(value, str | int | float) or value is None else str(value)
