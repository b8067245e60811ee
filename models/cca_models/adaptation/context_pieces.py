"""Contexts of reading comprehension cut into pieces, and where each question's answer stands."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cca_models.documents import Document
from cca_models.reading.passages import cut_passages

# Longer answers teach retelling, not finding.
_LONGEST_ANSWER = 400
# An answer that stands in more pieces than this ("yes", "he") locates nothing.
_MOST_GOLD = 3
# A title that so many contexts bear says nothing about any of them.
_COMMON_TITLE = 100


@dataclass(frozen=True, slots=True)
class Context:
    """A text that questions are asked about: source, title or "", pieces in reading order."""

    source: int
    title: str
    pieces: Sequence[str]


@dataclass(frozen=True, slots=True)
class Question:
    """A question: text, accepted answers, its context, and the pieces that hold the answer.

    Attributes:
        gold: Numbers of pieces, counted through all contexts; empty where the answer is not a
            stretch of the text, or stands in too many places.
    """

    text: str
    answers: Sequence[str]
    context: int
    gold: Sequence[int]


def cut_contexts(
    records: Sequence[Mapping[str, Any]],
    source: int,
    contexts: list[Context],
    questions: list[Question],
) -> None:
    """Add the contexts and questions of one source; equal contexts are kept once.

    Questions without a usable answer are left out: unanswerable, too long, or in need of a
    conversation before them.
    """
    titles = Counter(r.get("title") or "" for r in _first_of_each(records))
    first = sum(len(c.pieces) for c in contexts)
    known: dict[str, int] = {}
    starts: dict[int, int] = {}
    for record in records:
        answers = _usable(record)
        if not answers:
            continue
        # Some pages are questions and answers themselves, under our own heading.
        text = record["context"].replace("Question: ", "")
        if text not in known:
            title = (record.get("title") or "").replace("_", " ")
            common = titles[record.get("title") or ""] > _COMMON_TITLE
            known[text] = len(contexts)
            starts[len(contexts)] = first
            contexts.append(Context(source, "" if common else title, _pieces(text)))
            first += len(contexts[-1].pieces)
        place = known[text]
        gold = _gold(contexts[place].pieces, answers)
        questions.append(
            Question(
                text=record["question"].strip(),
                answers=answers,
                context=place,
                gold=[starts[place] + i for i in gold],
            )
        )


def _first_of_each(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list({r["context"]: r for r in records}.values())


def _usable(record: Mapping[str, Any]) -> list[str]:
    """Give the answers to train on, shortest first."""
    if record.get("history"):
        return []
    answers = {" ".join(a.split()) for a in record["answers"]}
    return sorted(
        (a for a in answers if a and a != "unanswerable" and len(a) <= _LONGEST_ANSWER), key=len
    )


def _pieces(text: str) -> list[str]:
    spans = cut_passages(Document.of_texts([text]))
    return [" ".join(text[s.start : s.end].split()) for s in spans] or [text]


def _gold(pieces: Sequence[str], answers: Sequence[str]) -> list[int]:
    """Find the pieces that hold an answer, word for word."""
    found = [i for i, piece in enumerate(pieces) if any(_holds(piece, a) for a in answers)]
    if len(pieces) <= 2:
        # Nowhere else can it come from.
        return found or list(range(len(pieces)))
    return found if len(found) <= _MOST_GOLD else []


def _holds(piece: str, answer: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", piece, re.IGNORECASE) is not None
