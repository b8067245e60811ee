"""Answers exchanged in the passages of a row, so that they can only be read, not known by heart.

A question's answer is replaced, everywhere in the row's passages and in the label, by the answer of
another question of the same source that looks alike: a name for a name, a number for a number. All
replacements of a row are planned on its passages as they were, and no two of them meet.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator

from cca_models.adaptation.ragged import Ids
from cca_models.adaptation.token_shapes import Shape, TokenShapes

# Answers of more tokens, or in more places of a row, are left as they are.
_LONGEST, _MOST_PLACES = 8, 12
# Tokens by which the new one may be shorter or longer, and how many are tried.
_DIFFERENCE, _TRIES = 2, 20


@dataclass(frozen=True, slots=True)
class Quiz:
    """A question about a row's passages.

    Attributes:
        question: Its number.
        words: Its tokens.
        answers: Accepted ones, the one to be exchanged first.
        passage: Number of the passage that answers it.
        gold: Numbers of that passage's parts that hold the answer; empty where none is known.
    """

    question: int
    words: Ids
    answers: Sequence[Ids]
    passage: int
    gold: Sequence[int]


@dataclass(slots=True)
class Exchanged:
    """What became of a row's passages.

    Attributes:
        passages: Parts of each, with the new answers.
        labels: New answers, by question.
        spoilt: Questions whose answer another exchange has taken away.
    """

    passages: list[list[Ids]]
    labels: dict[int, Ids] = field(default_factory=dict)
    spoilt: set[int] = field(default_factory=set)


def exchange_answers(
    rng: Generator,
    passages: Sequence[Sequence[Ids]],
    quiz: Sequence[Quiz],
    shapes: TokenShapes,
    *,
    share: float,
    draw: Callable[[int], Ids],
) -> Exchanged:
    """Exchange the answers of a share of the questions.

    Args:
        rng: What draws them.
        passages: Parts of each passage; words do not cross from one part to the next.
        quiz: The questions; those that are not about a passage are not among them.
        shapes: Of the vocabulary.
        share: Of the questions; fewer are, where an answer cannot be exchanged cleanly.
        draw: Draws an answer of the source of a question, given by its number.
    """
    text = _Text(passages, shapes)
    asked = "\n".join(shapes.text(q.words) for q in quiz)
    labels: dict[int, Ids] = {}
    olds: list[str] = []
    for q in quiz:
        if rng.random() >= share or not len(q.gold):
            continue
        old = np.asarray(q.answers[0], np.int64)
        words = shapes.text(old).strip()
        # Who is asked about by a name must still be found under it.
        if not _suitable(old, shapes) or count_words(asked, words):
            continue
        places = text.free_places(old, words)
        if not places or not any(text.is_gold(place, q) for place in places):
            continue
        taken = [*olds, words]
        news = [shapes.text(new) for new in labels.values()]
        if any(count_words(new, words) for new in news):
            continue
        for _ in range(_TRIES):
            new = np.asarray(draw(q.question), np.int64)
            if _alike(old, new, shapes) and not any(
                count_words(shapes.text(new), other) for other in taken
            ):
                text.replace(places, len(old), new)
                labels[q.question] = new
                olds.append(words)
                break
    changed = text.changed()
    spoilt = {
        q.question
        for q in quiz
        if q.question not in labels and _spoilt(q, passages[q.passage], changed[q.passage], shapes)
    }
    return Exchanged(changed, labels, spoilt)


def count_words(text: str, words: str) -> int:
    """Count where words stand in a text as whole words."""
    found, at = 0, text.find(words) if words else -1
    while at >= 0:
        end = at + len(words)
        found += not (
            (at > 0 and text[at - 1].isalnum() and words[0].isalnum())
            or (end < len(text) and text[end].isalnum() and words[-1].isalnum())
        )
        at = text.find(words, at + 1)
    return found


def _suitable(answer: Ids, shapes: TokenShapes) -> bool:
    if not 0 < len(answer) <= _LONGEST:
        return False
    # A common word, "yes" or "two", is part of much that is not meant.
    return len(answer) > 1 or shapes.shape_of(answer) in (Shape.NAME, Shape.NUMBER)


def _alike(old: Ids, new: Ids, shapes: TokenShapes) -> bool:
    return (
        _suitable(new, shapes)
        and abs(len(new) - len(old)) <= _DIFFERENCE
        and shapes.shape_of(new) == shapes.shape_of(old)
    )


def _spoilt(q: Quiz, before: Sequence[Ids], behind: Sequence[Ids], shapes: TokenShapes) -> bool:
    if all(old is new for old, new in zip(before, behind, strict=True)):
        return False
    old, new = ("".join(shapes.text(part) for part in parts).lower() for parts in (before, behind))
    answers = [shapes.text(answer).strip().lower() for answer in q.answers]
    return any(count_words(new, answer) < count_words(old, answer) for answer in answers)


class _Text:
    """The passages of a row as one array of tokens, with what is to be replaced in it."""

    def __init__(self, passages: Sequence[Sequence[Ids]], shapes: TokenShapes) -> None:
        self._passages, self._shapes = passages, shapes
        self._parts = [(n, m) for n, parts in enumerate(passages) for m in range(len(parts))]
        lengths = [len(passages[n][m]) + 1 for n, m in self._parts]
        self._starts = np.cumsum([0, *lengths])
        # No token has the number -1: nothing is found across the end of a part.
        end = np.asarray([-1])
        self._flat: Ids = np.concatenate(
            [np.zeros(0, np.int64)]
            + [ids for n, m in self._parts for ids in (np.asarray(passages[n][m], np.int64), end)]
        )
        self._free = self._flat >= 0
        self._words = "\n\n".join("".join(map(shapes.text, parts)) for parts in passages)
        self._plan: dict[tuple[int, int], list[tuple[int, int, Ids]]] = {}

    def free_places(self, old: Ids, words: str) -> list[int]:
        """Find all places of an answer; none if some are out of reach, or there are too many."""
        n = len(old)
        ends = np.flatnonzero(self._flat[: max(0, len(self._flat) - n)] == old[0])
        for offset in range(1, n):
            ends = ends[self._flat[ends + offset] == old[offset]]
        places = [
            int(at)
            for at in ends
            # A part ends in -1, so there is always a token behind.
            if self._flat[at + n] < 0 or not self._shapes.goes_on(int(self._flat[at + n]))
        ]
        if not 0 < len(places) <= _MOST_PLACES:
            return []
        if not all(self._free[at : at + n].all() for at in places):
            return []
        # Elsewhere it may be cut into other tokens: behind a bracket, at the start of a passage.
        return places if count_words(self._words, words) == len(places) else []

    def is_gold(self, place: int, q: Quiz) -> bool:
        """Tell whether a place is in a part that holds the question's answer."""
        passage, part = self._part(place)
        return passage == q.passage and part in q.gold

    def replace(self, places: Sequence[int], length: int, new: Ids) -> None:
        """Plan to put other tokens in the place of some."""
        for at in places:
            self._free[at : at + length] = False
            where = self._part(at)
            start = at - int(self._starts[self._parts.index(where)])
            self._plan.setdefault(where, []).append((start, start + length, new))

    def changed(self) -> list[list[Ids]]:
        """Give the passages as planned; parts without a change are the same arrays."""
        return [
            [self._rewritten(n, m) for m in range(len(parts))]
            for n, parts in enumerate(self._passages)
        ]

    def _part(self, place: int) -> tuple[int, int]:
        return self._parts[int(np.searchsorted(self._starts, place, side="right")) - 1]

    def _rewritten(self, passage: int, part: int) -> Any:
        ids = self._passages[passage][part]
        if (passage, part) not in self._plan:
            return ids
        pieces, at = [], 0
        for start, end, new in sorted(self._plan[passage, part], key=lambda change: change[0]):
            pieces += [ids[at:start], new]
            at = end
        return np.concatenate([*pieces, ids[at:]]).astype(np.int64)
