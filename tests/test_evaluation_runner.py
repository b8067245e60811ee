"""The runner and the results file: resuming, other settings, what does not fit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from told_method import ToldMethod

from cca_models.errors import ContextTooLongError
from cca_models.evaluation.record import Record
from cca_models.evaluation.results import metric_lines
from cca_models.evaluation.runner import run_task, task_settings
from cca_models.evaluation.tasks import make_task, task_names
from cca_models.evaluation.types import EvaluationError, Method, Row, Table, TaskOptions, Unit


class Count:
    """Two rows a unit; the long unit does not fit the short method."""

    name = "count"
    files: Sequence[Path] = ()

    def __init__(self) -> None:
        self.runs: list[tuple[str, str]] = []
        self.fits = False
        self.stop_at = ""

    def settings(self) -> dict[str, Any]:
        return {"much": (1, 2)}

    def methods(self, asked: Sequence[str]) -> Sequence[str]:
        return asked

    def units(self) -> Sequence[Unit]:
        return [Unit(key=k, tokens=n) for k, n in (("a", 10), ("b", 20), ("c", 5000))]

    def run(self, unit: Unit, method: Method) -> list[Row]:
        self.runs.append((unit.key, method.name))
        if unit.key == self.stop_at:
            raise KeyboardInterrupt
        if unit.tokens > 100 and method.name == "short" and not self.fits:
            raise ContextTooLongError("needs 5,000 tokens, the model reaches 100")
        return [
            {"key": f"{unit.key}/{i}", "length": unit.tokens, "metrics": {"right": float(i)}}
            for i in range(2)
        ]

    def table(self, rows: Sequence[Row]) -> Table:
        lines = metric_lines(rows, ("length", "method"), ["right"])
        return Table(task="count", title="t", columns=("length", "method", "right"), lines=lines)


METHODS = {name: ToldMethod(says=str, name=name) for name in ("long", "short")}


def go(task: Count, path: Path | None, **settings: Any) -> Any:
    settings = {"seed": 0, **task_settings(task), **settings}
    with Record(path, settings=settings, provenance={"version": "1"}) as record:
        return run_task(task, METHODS, record)


def test_rows_are_written_and_read_again(tmp_path: Path) -> None:
    path, task = tmp_path / "r.jsonl", Count()
    task.fits = True
    first = go(task, path)
    assert task.runs == [(u, m) for u in "abc" for m in ("long", "short")]
    assert len(path.read_text().splitlines()) == 1 + 12
    again = Count()
    assert go(again, path) == first and again.runs == []
    assert [line[:2] for line in first.table.lines] == [
        (n, m) for n in (10, 20, 5000) for m in ("long", "short")
    ]
    header = json.loads(path.read_text().splitlines()[0])
    assert header["settings"]["count.much"] == [1, 2] and header["provenance"] == {"version": "1"}


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    path, task = tmp_path / "r.jsonl", Count()
    task.stop_at = "b"
    with pytest.raises(KeyboardInterrupt):
        go(task, path)
    # Killed while it wrote: a line torn, and a unit without its last line.
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + '\n{"task": "cou')
    task = Count()
    result = go(task, path)
    assert ("a", "long") not in task.runs
    assert task.runs[0] == ("a", "short")
    assert len([row for row in result.rows if row["unit"] == "a"]) == 4
    assert all("metrics" in json.loads(x) or "settings" in json.loads(x) or "error" in json.loads(x)
               for x in path.read_text().splitlines())  # fmt: skip


def test_what_does_not_fit_is_a_result_and_is_tried_again(tmp_path: Path) -> None:
    path, task = tmp_path / "r.jsonl", Count()
    result = go(task, path)
    assert len(result.failed) == 1 and "short, c: too long: needs 5,000" in result.failed[0]
    assert any("short: 1 of 3 units could not be run" in note for note in result.table.notes)
    assert (5000, "short") not in [line[:2] for line in result.table.lines]
    task = Count()
    task.fits = True
    result = go(task, path)
    assert task.runs == [("c", "short")] and not result.failed
    assert go(Count(), path).failed == ()


def test_other_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(self: Count, unit: Unit, method: Method) -> list[Row]:
        raise ZeroDivisionError

    monkeypatch.setattr(Count, "run", break_down)
    with pytest.raises(ZeroDivisionError):
        go(Count(), None)


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    go(Count(), path, fingerprint="a" * 64)
    before = path.read_bytes()
    with pytest.raises(EvaluationError, match=r"fingerprint a{16}… there, b{16}… now") as caught:
        go(Count(), path, fingerprint="b" * 64)
    assert "--out" in caught.value.hint
    with pytest.raises(EvaluationError, match="seed 0 there, 1 now"):
        go(Count(), path, seed=1)
    assert path.read_bytes() == before
    # Another task beside it does no harm.
    go(Count(), path, fingerprint="a" * 64, **{"other.data.x": "1"})


def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(EvaluationError, match="line 1: not a line of results"):
        go(Count(), path)
    assert path.read_text() == "my notes\n"
    path.write_text("my notes without an end")
    with pytest.raises(EvaluationError, match="not a line of results"):
        go(Count(), path)
    assert path.read_text() == "my notes without an end"


def test_only_rows_of_the_units_asked_for_are_summed_up(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    go(Count(), path)
    fewer = Count()
    fewer.units = lambda: [Unit(key="a", tokens=10)]  # type: ignore[method-assign]
    result = go(fewer, path)
    assert fewer.runs == [] and {row["unit"] for row in result.rows} == {"a"}
    assert not result.failed


def test_unknown_tasks_are_named() -> None:
    assert {"ppl", "multidoc", "squad", "locate", "needle", "longqa"} <= set(task_names())
    with pytest.raises(EvaluationError, match="task 'chess' is unknown"):
        make_task("chess", TaskOptions(tokenizer=None))  # type: ignore[arg-type]
