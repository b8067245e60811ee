"""The questions of one call of ``cca ask``: from the arguments, a file, or standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cca_cli.errors import InputError, UsageError

__all__ = ["Question", "collect_questions", "stream_questions"]

_SHAPE = 'write {"id": "a", "question": "..."}'


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        id: From the file, or its place among the questions, from 1.
        text: As asked.
        problem: Why the line that it came from is no question.
    """

    id: str
    text: str
    problem: InputError | None = None


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


def stream_questions(first: int = 1) -> Iterator[Question]:
    """Take questions from standard input, each as soon as its line is there.

    A line that is no question is given out with its problem, and stops no other.

    Args:
        first: Number of the first, where it has no id.

    Raises:
        InputError: If there is none at all.
    """
    sys.stdin.reconfigure(encoding="utf-8-sig", errors="replace")  # type: ignore[union-attr]
    asked = False
    # iter() over the method: iterating over the stream itself would wait for more lines.
    for question in _questions(iter(sys.stdin.readline, ""), "stdin", first):
        asked = True
        yield question
    if not asked:
        raise InputError("stdin: there is no question in it", hint="write one question a line")


def _from_file(file: Path, *, first: int) -> list[Question]:
    try:
        # Not splitlines: a JSON string may hold U+2028 and the like.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "Not UTF-8 text"
        raise InputError(
            f"{file}: {reason[0].lower()}{reason[1:]}",
            hint="--questions takes one question a line, or JSON Lines",
        ) from error
    asked = list(_questions(lines, str(file), first))
    for question in asked:
        # A file can be corrected before anything is asked.
        if question.problem is not None:
            raise question.problem
    if not asked:
        raise InputError(f"{file}: there is no question in it", hint="write one question a line")
    return asked


def _questions(lines: Iterable[str], name: str, first: int) -> Iterator[Question]:
    """Read lines: each a question, or a JSON object that holds one; empty ones are left out."""
    place = first
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if line.lstrip().startswith("{"):
            yield _from_json(name, number, line, str(place))
        else:
            yield Question(str(place), line.strip())
        place += 1


def _from_json(name: str, number: int, line: str, place: str) -> Question:
    own: object = None
    try:
        record = json.loads(line)
        own = record.get("id")
        text = record["question"]
        if not isinstance(text, str) or not text.strip():
            raise ValueError("question is empty")
    except (ValueError, KeyError, RecursionError) as error:
        reason = "no field question" if isinstance(error, KeyError) else str(error)
        problem = InputError(f"{name}, line {number}: {reason}", hint=_SHAPE)
        return Question(place if own is None else str(own), line.strip()[:200], problem)
    return Question(place if own is None else str(own), text.strip())
