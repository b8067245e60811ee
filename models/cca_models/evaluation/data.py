"""Data files: JSON Lines, packed with xz or not, found by their usual names."""

import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cca_models.evaluation.types import EvaluationError

_SUFFIXES = (".jsonl.xz", ".jsonl")
Record = dict[str, Any]


def find(folder: Path | None, name: str, *, task: str) -> Path:
    """Find NAME.jsonl.xz or NAME.jsonl in the data folder.

    Raises:
        EvaluationError: If no folder was named, or the file is not there.
    """
    if folder is None:
        raise EvaluationError(f"{task} needs data", hint="--data DIR, or --data-file FILE")
    for suffix in _SUFFIXES:
        if (path := folder / (name + suffix)).is_file():
            return path
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: there is no such folder", hint="--data DIR")
    raise EvaluationError(
        f"{folder}: {name}.jsonl.xz is missing, which {task} reads",
        hint=f"another --data DIR, or --data-file FILE with records like those of {name}",
    )


def find_all(folder: Path | None, names: Sequence[str], *, task: str) -> list[Path]:
    """Find those of several files that are there.

    Raises:
        EvaluationError: If no folder was named, or none of them is there.
    """
    if folder is None or not folder.is_dir():
        return [find(folder, names[0], task=task)]
    paths = [folder / (name + suffix) for name in names for suffix in _SUFFIXES]
    there = [path for path in paths if path.is_file()]
    return there or [find(folder, names[0], task=task)]


def stem(path: Path) -> str:
    """Give a data file's name without what says how it is packed."""
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def load(path: Path, *, fields: Sequence[str] = ()) -> list[Record]:
    """Read the records of a file.

    Args:
        path: Packed with xz if its name ends so.
        fields: Those that every record must have.

    Raises:
        EvaluationError: If the file cannot be read, holds none, or a record lacks a field.
    """
    records = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise EvaluationError(
                f"{path}, line {number}: not JSON ({error})", hint="one JSON object a line"
            ) from error
        missing = [f for f in fields if f not in record] if isinstance(record, dict) else fields
        if not isinstance(record, dict) or missing:
            raise EvaluationError(
                f"{path}, line {number}: "
                + (f"no field {missing[0]}" if missing else "not an object"),
                hint=f"every record needs {', '.join(fields)}" if fields else "",
            )
        records.append(record)
    if not records:
        raise EvaluationError(f"{path}: there is no record in it", hint="one JSON object a line")
    return records


def _lines(path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".xz":
            with lzma.open(path, "rt", encoding="utf-8-sig") as packed:
                yield from packed
        else:
            with path.open(encoding="utf-8-sig") as plain:
                yield from plain
    except (OSError, UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "damaged"
        raise EvaluationError(
            f"{path}: {reason}", hint="a file of JSON Lines, or one .xz"
        ) from error


def as_list(value: Any) -> list[str]:
    """Give answers as a list of texts, whether one or several were given."""
    values = value if isinstance(value, list) else [value]
    return [str(v) for v in values if v is not None and str(v).strip()]
