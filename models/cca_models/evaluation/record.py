"""The results file: what was run on a first line, then a row a line, as they come.

A run that is stopped goes on where it was: rows that are there are not made again. Results of
other settings are refused. What one unit gave is written at once, and a unit of which lines are
missing is run again; its later lines count.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from cca_models.evaluation.types import EvaluationError, Row

_UnitKey = tuple[str, str, str]


class Record:
    """Rows, in a file or in memory alone.

    Args:
        path: JSON Lines; made if it is not there. None keeps them in memory.
        settings: What must be the same for rows to stand side by side; flat.
        provenance: Other facts, written beside the settings.

    Raises:
        EvaluationError: If the file holds rows of other settings, or is no such file.
    """

    def __init__(
        self, path: Path | None, *, settings: Mapping[str, Any], provenance: Mapping[str, Any]
    ) -> None:
        self._path = path
        # By task, unit and method, and there by key.
        self._units: dict[_UnitKey, dict[str, Row]] = {}
        self._file: TextIO | None = None
        # As JSON has them: tuples are lists there.
        wanted: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        if path is None:
            return
        if path.exists():
            self._load(path, wanted)
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise EvaluationError(f"{path}: {error.strerror}", hint="--out FILE") from error
        self._write([{"settings": wanted, "provenance": dict(provenance)}])

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def rows(self, task: str) -> list[Row]:
        """Give a task's rows."""
        return [row for key, rows in self._units.items() if key[0] == task for row in rows.values()]

    def done(self, task: str) -> set[tuple[str, str]]:
        """Give the units of a task that are whole: (unit, method). Failed ones are tried again."""
        return {
            key[1:]
            for key, rows in self._units.items()
            if key[0] == task
            and not any("error" in row for row in rows.values())
            and all(row["of"] == len(rows) for row in rows.values())
        }

    def add(self, task: str, unit: str, method: str, rows: Sequence[Row]) -> None:
        """Take in what a unit gave, and write it down."""
        facts = {"task": task, "method": method, "unit": unit, "of": len(rows)}
        whole = [{**facts, **row} for row in rows]
        self._units[task, unit, method] = {row["key"]: row for row in whole}
        self._write(whole)

    def _write(self, records: Iterable[Mapping[str, Any]]) -> None:
        if self._file is not None:
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            self._file.write("".join(lines))
            self._file.flush()

    def _load(self, path: Path, wanted: Mapping[str, Any]) -> None:
        text = path.read_text(encoding="utf-8")
        *lines, torn = text.split("\n")
        # A run that was killed while it wrote leaves half a line, which goes.
        if torn and not torn.startswith("{"):
            lines.append(torn)
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                record = json.loads(line)
                if "settings" in record:
                    _expect_same(path, record["settings"], wanted)
                else:
                    self._take(record)
            except (ValueError, KeyError, TypeError) as error:
                raise EvaluationError(
                    f"{path}, line {number}: not a line of results", hint="--out with another name"
                ) from error
        if torn:
            path.write_text(text[: len(text) - len(torn)], encoding="utf-8")

    def _take(self, row: Row) -> None:
        rows = self._units.setdefault((row["task"], row["unit"], row["method"]), {})
        if "error" in row or any("error" in known for known in rows.values()):
            # Of a failure and what came of another try, the later counts.
            rows.clear()
        rows[row["key"]] = row


def _expect_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare settings; those that only one of them has belong to other tasks."""
    differing = [name for name in wanted if name in found and found[name] != wanted[name]]
    if differing:
        says = "; ".join(
            f"{name} {_short(found[name])} there, {_short(wanted[name])} now" for name in differing
        )
        raise EvaluationError(
            f"{path} holds results of other settings: {says}",
            hint="--out with another name, or the settings of before",
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:16] + "…" if len(text) > 40 else text
