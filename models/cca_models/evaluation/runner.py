"""Running tasks: unit after unit, method after method, what is done already left out."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from cca_models.errors import ContextTooLongError
from cca_models.evaluation.record import Record
from cca_models.evaluation.results import in_order
from cca_models.evaluation.types import Method, Row, Task, TaskResult, Unit
from cca_models.fingerprints import file_sha256

_log = logging.getLogger(__name__)

# Called with a task's name, the runs of units done and those in all.
Progress = Callable[[str, int, int], None]


def task_settings(task: Task) -> dict[str, Any]:
    """Give what rows of a task depend on, under names that say which task's they are."""
    settings = {f"{task.name}.{name}": value for name, value in task.settings().items()}
    for path in task.files:
        settings[f"{task.name}.data.{path.name}"] = file_sha256(path)
    return settings


def run_task(
    task: Task,
    methods: Mapping[str, Method],
    record: Record,
    *,
    progress: Progress | None = None,
) -> TaskResult:
    """Run a task with several methods.

    A unit that does not fit, the model's positions or the device's memory, is a result: a row with
    "error". Everything else that goes wrong is raised; what was done before is in the record.

    Args:
        task: What to run.
        methods: By name; those that the task asks for.
        record: Rows that are there already, and where new ones go.
        progress: Told of every unit.
    """
    names = task.methods(tuple(methods))
    units = task.units()
    done = record.done(task.name)
    total, count = len(units) * len(names), 0
    for unit in units:
        # Methods in turns: they share what they remember of a context.
        for name in names:
            if (unit.key, name) not in done:
                record.add(task.name, unit.key, name, _run(task, unit, methods[name]))
            count += 1
            if progress is not None:
                progress(task.name, count, total)
    wanted = {(unit.key, name) for unit in units for name in names}
    rows = [row for row in record.rows(task.name) if (row["unit"], row["method"]) in wanted]
    return _result(task, in_order(rows, methods=names), methods, names, units)


def _run(task: Task, unit: Unit, method: Method) -> list[Row]:
    try:
        return task.run(unit, method)
    except (ContextTooLongError, torch.OutOfMemoryError) as error:
        kind = "too long" if isinstance(error, ContextTooLongError) else "out of memory"
        _log.info("%s %s with %s: %s", task.name, unit.key, method.name, error)
        says = f"{kind}: {' '.join(str(error).split())[:200]}"
        return [{"key": f"{unit.key}/error", "length": unit.tokens, "error": says}]


def _result(
    task: Task,
    rows: Sequence[Row],
    methods: Mapping[str, Method],
    names: Sequence[str],
    units: Sequence[Unit],
) -> TaskResult:
    good = tuple(row for row in rows if "error" not in row)
    bad = [row for row in rows if "error" in row]
    failed = [f"{row['method']}, {row['unit']}: {row['error']}" for row in bad]
    longest = max((unit.tokens for unit in units), default=0)
    notes = [note for name in names if (note := methods[name].note(longest))]
    table = task.table(good)
    for name in dict.fromkeys(row["method"] for row in bad):
        count = sum(row["method"] == name for row in bad)
        first = next(row["error"] for row in bad if row["method"] == name)
        notes.append(f"{name}: {count} of {len(units)} units could not be run, first {first}")
    table = replace(table, notes=(*table.notes, *notes))
    return TaskResult(table=table, rows=tuple(rows), failed=tuple(failed))
