"""What rows are made of: questions, contexts, texts and summaries, drawn from a corpus."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from cca_models.adaptation.corpus import Corpus
from cca_models.adaptation.draws import Draw
from cca_models.adaptation.exchanges import Quiz
from cca_models.adaptation.ragged import Ids
from cca_models.adaptation.wording import Wording

# Tokens of a paragraph of running text, where none are marked; and what is too short for one.
_PARAGRAPH, _SHORTEST = (80, 300), 60


class Material:
    """Draws from a corpus; the same generator state draws the same.

    Args:
        corpus: Tokens of the sources.
        wording: Tokens around them.
        shares: How often each question source is drawn, by name; others are left out.
        text_shares: The same for texts.
        summary_shares: The same for summaries.
        held_out: Draw the questions and contexts that are never trained on, and no others.
    """

    def __init__(
        self,
        corpus: Corpus,
        wording: Wording,
        *,
        shares: dict[str, float],
        text_shares: dict[str, float],
        summary_shares: dict[str, float],
        held_out: bool = False,
    ) -> None:
        self._a, self._flat, self._wording = corpus.arrays, corpus.flat, wording
        names = corpus.sources
        self._piece_starts = self._a["context_pieces"].starts
        self._context_tokens = _sums(self._a["pieces"].lengths(), self._piece_starts)
        contexts = self._flat["question_context"]
        # No source has the number -1: these contexts are not drawn.
        barred = self._flat["held_out"][contexts] != held_out
        sources = np.where(barred, -1, self._flat["context_source"][contexts])
        self._questions = Draw(sources, names, shares)
        # Nor do passages of a source that is left out stand among others.
        drawn = [place for place, name in enumerate(names) if shares.get(name, 0) > 0]
        left_out = ~np.isin(self._flat["context_source"], drawn)
        self._barred = (self._flat["held_out"] != held_out) | left_out
        # Among many passages a question must say which of them it means.
        self._named = Draw(np.where(self._flat["named"], sources, -1), names, shares)
        self._texts = Draw(
            self._flat["text_source"], names, text_shares, weight=self._a["texts"].lengths()
        )
        self._summaries = Draw(self._flat["summary_source"][:, 0], names, summary_shares)
        by_context = np.argsort(self._flat["question_context"], kind="stable")
        counts = np.bincount(
            self._flat["question_context"], minlength=len(self._a["context_pieces"])
        )
        self._of_context = np.split(by_context, np.cumsum(counts)[:-1])

    def _parts(self, context: int, *, titled: bool) -> list[Ids]:
        """Give a context as running text: its title with a line's end, and its pieces."""
        title = self._a["titles"][context]
        parts = [title, np.asarray(self._wording.line)] if titled and len(title) else []
        for i, piece in enumerate(self._a["context_pieces"][context]):
            parts.append(self._a["continued" if i else "pieces"][int(piece)])
        return parts

    def _quiz(self, question: int, passage: int, parts: Sequence[Ids]) -> Quiz:
        """Tell of a question whose context is one of a row's passages, with these parts."""
        context = self._context_of(question)
        # A title comes before the pieces.
        first = len(parts) - len(self._a["context_pieces"][context])
        gold = self._a["gold"][question] - self._piece_starts[context] + first
        answers = self._a["question_answers"][question]
        return Quiz(
            question,
            self._a["questions"][question],
            [self._a["answers"][int(answer)] for answer in answers],
            passage,
            gold.tolist(),
        )

    def _answer_like(self, rng: Generator, question: int) -> Ids:
        """Draw the answer of any question of the same source."""
        source = int(self._flat["context_source"][self._context_of(question)])
        other = self._questions.of(rng, source)
        return self._a["answers"][int(self._a["question_answers"][other][0])]

    def _stretches(self, rng: Generator, tokens: int, *, running: bool) -> list[Ids]:
        """Draw so many tokens, with gaps: paragraphs of a running text, or pieces of many."""
        parts: list[Ids] = []
        text, at, used = np.zeros(0, np.int64), 0, 0
        while used < tokens:
            if running:
                if len(text) - at < max(1, min(_SHORTEST, len(text))):
                    text = self._a["texts"][self._texts.draw(rng)]
                    at = int(rng.integers(max(1, len(text) - tokens)))
                part = text[at : at + int(rng.integers(*_PARAGRAPH))]
                at += len(part)
            else:
                part = self._a["pieces"][self._any_piece(rng)]
            part = part[: tokens - used]
            parts.append(part)
            used += len(part) + len(self._wording.gap)
        return parts

    def _is_barred(self, context: int) -> bool:
        """Tell whether a context is not to be drawn."""
        return bool(self._barred[context])

    def _context_holding(self, piece: int) -> int:
        """Give the context that a piece is of."""
        return int(np.searchsorted(self._piece_starts, piece, side="right")) - 1

    def _context_of(self, question: int) -> int:
        return int(self._flat["question_context"][question])

    def _any_piece(self, rng: Generator) -> int:
        """Draw a piece of some question's context."""
        context = self._context_of(self._questions.draw(rng))
        return int(rng.choice(self._a["context_pieces"][context]))

    def _cost(self, piece: int) -> int:
        return len(self._a["pieces"][piece]) + 1


def _sums(lengths: Ids, starts: Ids) -> Ids:
    """Add up the lengths of the pieces of each context."""
    total = np.concatenate([[0], np.cumsum(lengths)])
    return np.asarray(total[starts[1:]] - total[starts[:-1]])
