"""For every question, what BM25 takes for relevant: distractors, and whether its own context is.

A question such as "What did the author like?" belongs to one text among thousands and says nothing
of which. Among many passages nobody could answer it, so there it is not asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import bm25s
import numpy as np

from cca_models.adaptation.context_pieces import Context, Question
from cca_models.reading.lexical import Words

# Some are in the question's own context and fall away.
_ASKED, _KEPT = 28, 16
# A question names its context if a piece of it is among so many of all pieces of all sources.
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What BM25 finds.

    Attributes:
        pieces: The best pieces outside each question's own context, best first.
        named: Whether the question's words find its own context among all others.
    """

    pieces: list[list[int]]
    named: list[bool]


def find_neighbours(
    contexts: Sequence[Context], questions: Sequence[Question], *, sources: int
) -> Neighbours:
    """Ask all questions of all pieces.

    Args:
        contexts: Of all sources.
        questions: Of all sources.
        sources: The first so many are compared; questions of the others, made by rule from words
            of their context, get no pieces and count as named.
    """
    contexts = [c for c in contexts if c.source < sources]
    asked_of = [q for q in questions if q.context < len(contexts)]
    rest = len(questions) - len(asked_of)
    if not asked_of:
        return Neighbours([[] for _ in questions], [True] * rest)
    owner = np.repeat(np.arange(len(contexts)), [len(c.pieces) for c in contexts])
    words = Words()
    stems = [words.stems(f"{c.title} {piece}") for c in contexts for piece in c.pieces]
    index = bm25s.BM25()
    index.index(stems, show_progress=False)
    asked = [words.stems(q.text) or ["?"] for q in asked_of]
    k = min(_ASKED, len(stems))
    found, scores = index.retrieve(
        asked, k=k, show_progress=False, n_threads=-1, backend_selection="numpy"
    )
    rows, named = [], []
    for question, pieces, score in zip(asked_of, found, scores, strict=True):
        own = owner[pieces] == question.context
        rows.append([int(p) for p in pieces[~own][:_KEPT]])
        # Without a word in common all pieces score nothing, and their order means nothing.
        named.append(bool((own & (score > 0))[:_NAMED].any()))
    return Neighbours(rows + [[] for _ in range(rest)], named + [True] * rest)
