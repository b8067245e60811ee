"""For every question, pieces of other contexts that look relevant: the distractors worth having."""

from collections.abc import Sequence

import bm25s
import numpy as np

from cca_models.adaptation.context_pieces import Context, Question
from cca_models.reading.lexical import Words

# Some are in the question's own context and fall away.
_ASKED, _KEPT = 28, 16


def nearest_pieces(
    contexts: Sequence[Context], questions: Sequence[Question], *, sources: int
) -> list[list[int]]:
    """Give the best pieces by BM25 outside each question's own context, best first.

    Args:
        contexts: Of all sources.
        questions: Of all sources.
        sources: The first so many are compared; questions of the others, made by rule and many,
            get none.
    """
    contexts = [c for c in contexts if c.source < sources]
    asked_of = [q for q in questions if q.context < len(contexts)]
    if not asked_of:
        return [[] for _ in questions]
    owner = np.repeat(np.arange(len(contexts)), [len(c.pieces) for c in contexts])
    words = Words()
    stems = [words.stems(piece) for context in contexts for piece in context.pieces]
    index = bm25s.BM25()
    index.index(stems, show_progress=False)
    asked = [words.stems(q.text) or ["?"] for q in asked_of]
    k = min(_ASKED, len(stems))
    found, _ = index.retrieve(
        asked, k=k, show_progress=False, n_threads=-1, backend_selection="numpy"
    )
    rows = []
    for question, pieces in zip(asked_of, np.asarray(found), strict=True):
        elsewhere = pieces[owner[pieces] != question.context]
        rows.append([int(p) for p in elsewhere[:_KEPT]])
    return rows + [[] for _ in range(len(questions) - len(rows))]
