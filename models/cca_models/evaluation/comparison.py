"""Several tasks in one table and one picture: what each method keeps, side by side.

Perplexity by position, exact match of the questions over many documents by length, and the needles
found by length: what the papers on efficient attention show.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cca_models.evaluation.ppl import perplexity, stretch_name
from cca_models.evaluation.results import figure, grouped, length_name
from cca_models.evaluation.types import Cell, Figure, Row, Table, TaskResult

COMPARED = ("ppl", "multidoc", "squad", "needle")

_WHAT = {
    "ppl": "perplexity",
    "multidoc": "exact match",
    "squad": "exact match, SQuAD",
    "needle": "needles found",
}
_METRICS = {"multidoc": "em", "squad": "em", "needle": "found"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """What one task says of all methods.

    Attributes:
        task: Its name.
        title: What is measured.
        axis: What the lengths are: of contexts, or where a stretch of positions begins.
        names: The lengths, ascending, as people write them.
        lines: By method: its figures, one for each length, None where there is none.
        every: By method: its figure over all lengths.
    """

    task: str
    title: str
    axis: str
    names: Mapping[int, str]
    lines: Mapping[str, Sequence[Figure | None]]
    every: Mapping[str, Figure | None]

    @property
    def percent(self) -> bool:
        """Whether figures are shares, of which more is better."""
        return self.task != "ppl"


def panels(results: Iterable[TaskResult]) -> list[Panel]:
    """Sum up the tasks that can be compared, those without rows left out."""
    found = []
    for result in results:
        rows = [row for row in result.rows if "error" not in row]
        if result.table.task in COMPARED and rows:
            found.append(_panel(result.table.task, rows))
    return found


def comparison_table(
    results: Iterable[TaskResult], *, untrained: Iterable[str] = ()
) -> Table | None:
    """Make a table of the methods; None if there are fewer than two, of tasks or of methods.

    Args:
        results: Of the tasks, in their order.
        untrained: Methods that a checkpoint must be trained for; a note says so.
    """
    shown = panels(results)
    methods = list(dict.fromkeys(name for panel in shown for name in panel.lines))
    if len(shown) < 2 or len(methods) < 2:
        return None
    columns = ["method"]
    lines: dict[str, list[Cell]] = {name: [name] for name in methods}
    for panel in shown:
        several = len(panel.names) > 1
        columns += [panel.task] * several
        columns += [f"{panel.task} {name}" for name in panel.names.values()]
        for name in methods:
            cells = panel.lines.get(name, [None] * len(panel.names))
            lines[name] += [*[panel.every.get(name)] * several, *cells]
    notes = ["perplexity: over all positions, then by position; lower is better"]
    notes.append("multidoc, squad: exact match; needle: found; over all lengths, then by length")
    named = [name for name in methods if name in set(untrained)]
    if named:
        notes.append(f"{', '.join(named)}: nobody trained this checkpoint for it")
    return Table(
        task="comparison",
        title="comparison: what each method keeps",
        columns=tuple(columns),
        lines=tuple(tuple(lines[name]) for name in methods),
        notes=tuple(notes),
    )


def _panel(task: str, rows: Sequence[Row]) -> Panel:
    place = "from" if task == "ppl" else "length"
    lengths = sorted({row[place] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    by = grouped(rows, "method", place)
    own = grouped(rows, "method")
    return Panel(
        task=task,
        title=_WHAT[task],
        axis="position in the text" if task == "ppl" else "tokens of context",
        names={n: stretch_name(n) if task == "ppl" else length_name(n) for n in lengths},
        lines={m: [_figure(task, by.get((m, n), [])) for n in lengths] for m in methods},
        every={m: _figure(task, own[(m,)]) for m in methods},
    )


def _figure(task: str, rows: Sequence[Row]) -> Figure | None:
    if task == "ppl":
        return perplexity(rows)
    name = _METRICS[task]
    return figure(row["metrics"][name] for row in rows if name in row["metrics"])
