"""Which passages stand together in a row, and what is asked about them.

Reading a row costs the same whether little is asked about it or much. So a row takes passages with
all their questions until it is full, and the dear ones, long with a question or two, less often:
two to three times as many questions for the tokens read.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from cca_models.adaptation.material import Material

# Questions of a row at most: heads that learn to point look from each token of each of them.
_MOST = 128
# Questions of one context, or one for so many of its tokens if that is more.
_EACH, _TOKENS_EACH = 8, 60
# A context that costs more tokens than these for each of its questions is taken less often.
_DEAR = 90
# Draws of a context for one row, and what of the row is to be used before one may end them.
_TRIES, _FULL = 200, 0.85
# Tokens around a context: a gap, or a title and the end of its line.
_AROUND = 12


class Packing(Material):
    """Chooses contexts and questions for a row."""

    # Of the questions, so many ask for what is not there.
    absent_among_many = 0.08
    # Of a row's tokens so many at least, on average, are for passages that nobody asks about.
    distracting = 0.1

    def _choose(self, rng: Generator, length: int) -> tuple[list[int], list[tuple[int, bool]], int]:
        """Draw contexts, each with its questions, until the row is full.

        Returns:
            Contexts; questions, and whether each has no answer, its context having been left
            out; and the tokens that are free for distractors.
        """
        chosen: list[int] = []
        asked: list[tuple[int, bool]] = []
        used = len(self._wording.prefix)
        room = length * (1 - 2 * self.distracting * rng.random())
        for _ in range(_TRIES):
            if len(asked) >= _MOST:
                break
            question = self._named.draw(rng)
            context = self._context_of(question)
            if context in chosen:
                continue
            cost = self._body([context])
            several = max(_EACH, cost // _TOKENS_EACH)
            here = self._asked_of(rng, question, min(several, _MOST - len(asked)))
            needed = cost + sum(self._turn(q) for q in here)
            # Reading a long context for one question teaches little for what it costs: the
            # dearer a context is, the fewer are taken.
            dear = cost * rng.random() > _DEAR * len(here)
            if dear or used + needed > room:
                if used > _FULL * room:
                    break
                continue
            chosen.append(context)
            asked += [(q, False) for q in here]
            used += needed
        present = set(chosen)
        for place in np.flatnonzero(rng.random(len(asked)) < self.absent_among_many).tolist():
            other = self._named.draw(rng)
            if self._context_of(other) not in present:
                asked[place] = (other, True)
        return chosen, asked, length - used

    def _asked_of(self, rng: Generator, question: int, most: int) -> list[int]:
        """Give a question and others of its context that say which text they mean."""
        context = self._context_of(question)
        here = [
            int(q) for q in self._of_context[context] if q != question and self._flat["named"][q]
        ]
        rng.shuffle(here)
        return [question, *here][:most]

    def _body(self, contexts: Sequence[int]) -> int:
        """Count the tokens of contexts in a row, with a title or a gap before each."""
        return sum(int(self._context_tokens[c]) + _AROUND for c in contexts)

    def _turn(self, question: int) -> int:
        """Count the tokens of a question with its shortest answer, as a turn of a conversation."""
        wording = self._wording
        answer = int(self._a["question_answers"][question][0])
        around = len(wording.next_turn) + len(wording.cue) + len(wording.end)
        return len(self._a["questions"][question]) + len(self._a["answers"][answer]) + around

    def _fill(self, rng: Generator, chosen: list[int], barred: set[int], room: int) -> list[Any]:
        """Add distractors until the room is used: contexts, or stretches of a text."""
        items: list[Any] = list(chosen)
        used = self._body(chosen)
        present = set(chosen)
        near = [
            other
            for context in chosen
            for question in self._of_context[context][:1]
            for piece in self._a["neighbours"][question][:6]
            if not self._is_barred(other := self._context_holding(int(piece)))
        ]
        rng.shuffle(near)
        running = rng.random() < 0.3
        text = self._a["texts"][self._texts.of(rng, self._texts.source(rng))] if running else None
        at = int(rng.integers(max(1, len(text) - room))) if text is not None else 0
        misses = 0
        while used < room and misses < 60:
            if text is not None:
                step = min(room - used, int(rng.integers(60, 600)), len(text) - at)
                if step < 8:
                    text = None
                    continue
                items.append(text[at : at + step])
                at, used = at + step, used + step + 2
                continue
            context = near.pop() if near else self._context_of(self._questions.draw(rng))
            cost = self._body([context])
            out = context in present or context in barred or self._is_barred(context)
            if out or used + cost > room:
                misses += 1
                continue
            present.add(context)
            items.append(context)
            used += cost
        return items
