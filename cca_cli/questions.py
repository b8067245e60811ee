"""The questions of one call of ``cca ask``: from the arguments, or from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cca_cli.errors import InputError, UsageError

__all__ = ["Question", "collect_questions"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        id: From the file, or its place among the questions, from 1.
        text: As asked.
    """

    id: str
    text: str


def collect_questions(
    argument: str | None, options: Sequence[str], file: Path | None
) -> list[Question]:
    """Collect the questions: the argument first, then the options', then the file's.

    Raises:
        UsageError: If there is none, or one is empty.
        InputError: If the file cannot be read, or a line of it is no question.
    """
    texts = [*([argument] if argument is not None else []), *options]
    if any(not text.strip() for text in texts):
        raise UsageError("the question is empty", hint='cca ask FILE "your question"')
    asked = [Question(str(i), text) for i, text in enumerate(texts, start=1)]
    if file is not None:
        asked += _from_file(file, first=len(asked) + 1)
    if not asked:
        raise UsageError(
            "no question was asked", hint='cca ask FILE "your question", or --questions FILE'
        )
    return asked


def _from_file(file: Path, *, first: int) -> list[Question]:
    try:
        # Not splitlines: a JSON string may hold U+2028 and the like.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(
            f"{file}: {reason}", hint="--questions takes one question a line, or JSON Lines"
        ) from error
    asked: list[Question] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = str(first + len(asked))
        asked.append(_from_json(file, number, line, place) if line.lstrip().startswith("{") else
                     Question(place, line.strip()))  # fmt: skip
    if not asked:
        raise InputError(f"{file}: there is no question in it", hint="write one question a line")
    return asked


def _from_json(file: Path, number: int, line: str, place: str) -> Question:
    try:
        record = json.loads(line)
        text = record["question"]
        if not isinstance(text, str) or not text.strip():
            raise ValueError("question is empty")
    except (ValueError, KeyError) as error:
        reason = "no field question" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{file}, line {number}: {reason}", hint='write {"id": "a", "question": "..."}'
        ) from error
    name = record.get("id")
    return Question(place if name is None else str(name), text.strip())
