"""Rows of training tokens: texts, questions over many passages and over few, summaries.

Rows about their own text have modules of their own: blanks_in_text, quotations; and so have the
choice of passages and questions: packing, and the exchange of answers among them: exchanges.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator

from cca_models.adaptation.blanks_in_text import cloze_row
from cca_models.adaptation.corpus import Corpus
from cca_models.adaptation.exchanges import exchange_answers
from cca_models.adaptation.packing import Packing
from cca_models.adaptation.quotations import quotes_row
from cca_models.adaptation.ragged import Ids
from cca_models.adaptation.row import Look, Row
from cca_models.adaptation.wording import Wording

# Further questions of a handful of passages, at most; and tokens kept free for the first of them.
_FURTHER, _KEPT_FREE = 7, 176


class Arranger(Packing):
    """Builds rows from a corpus; the same generator state builds the same row.

    Args:
        corpus: Tokens of the sources.
        wording: Tokens around them.
        shares: How often each question source is drawn, by name; others are left out.
        text_shares: The same for texts.
        summary_shares: The same for summaries.
        exchanged: Share of the questions over many passages whose answer is exchanged.
        held_out: Draw the questions and contexts that are never trained on, and no others.
    """

    # Of the questions over few passages, so many ask for what is not there.
    absent_among_few = 0.2

    def __init__(
        self,
        corpus: Corpus,
        wording: Wording,
        *,
        shares: dict[str, float],
        text_shares: dict[str, float],
        summary_shares: dict[str, float],
        exchanged: float = 0.0,
        held_out: bool = False,
    ) -> None:
        super().__init__(
            corpus, wording, shares=shares, text_shares=text_shares,
            summary_shares=summary_shares, held_out=held_out,
        )  # fmt: skip
        self._exchanged = exchanged

    def text(self, rng: Generator, length: int) -> Row:
        """A stretch of one long document, or of short ones of one source, one after the other."""
        row = Row()
        source = self._texts.source(rng)
        while row.length < length:
            ids = self._a["texts"][self._texts.of(rng, source)]
            room = length - row.length
            start = int(rng.integers(max(1, len(ids) - room + 1)))
            row.add(ids[start : start + room], taught=True)
            if row.length < length:
                row.add(self._wording.gap)
        return row

    def questions(self, rng: Generator, length: int) -> Row:
        """Passages, then questions about them: as many of both as the row holds."""
        row = Row()
        row.add(self._wording.prefix)
        chosen, asked, free = self._choose(rng, length)
        barred = {self._context_of(question) for question, absent in asked if absent}
        inserted = self._fill(rng, chosen, barred, self._body(chosen) + free)
        rng.shuffle(inserted)
        titled = rng.random() < 0.6
        passages = [
            self._parts(item, titled=titled) if isinstance(item, int) else [item]
            for item in inserted
        ]
        passages, labels, asked = self._exchange(rng, inserted, passages, asked)
        places: dict[int, list[tuple[int, int]]] = {}
        for at, (item, parts) in enumerate(zip(inserted, passages, strict=True)):
            if at:
                row.add(self._wording.gap)
            added = [row.add(part) for part in parts]
            if isinstance(item, int):
                # A title comes before the pieces.
                places[item] = added[-len(self._a["context_pieces"][item]) :]
        rng.shuffle(asked)
        self._ask(rng, row, asked, places, length, labels)
        return row

    def few(self, rng: Generator, length: int) -> Row:
        """A handful of passages as the reader finds them, then some questions."""
        row = Row()
        row.add(self._wording.prefix)
        question = self._questions.draw(rng)
        context = self._context_of(question)
        gold = [int(p) for p in self._a["gold"][question]]
        own = [int(p) for p in self._a["context_pieces"][context]]
        if not gold and len(own) <= 3:
            # The answer is told in words of its own, and they must rest on something here.
            gold = own
        absent = not gold or rng.random() < self.absent_among_few
        others = [
            int(p)
            for p in self._a["neighbours"][question]
            if p not in own and not self._is_barred(self._context_holding(int(p)))
        ]
        pieces = [] if absent else list(gold)
        nearest, others = others[:4], others[4:]
        rng.shuffle(others)
        others = nearest + others
        # What stands beside the answer is found beside it, too.
        beside = [p for p in own if p not in gold][:2]
        if not absent and rng.random() < 0.3:
            pieces += beside
        others += [self._any_piece(rng) for _ in range(4)]
        room = length - row.length - _KEPT_FREE
        count = int(rng.integers(2, 8))
        used = sum(self._cost(p) for p in pieces)
        for piece in others:
            if len(pieces) < count and piece not in own and used + self._cost(piece) < room:
                pieces.append(piece)
                used += self._cost(piece)
        rng.shuffle(pieces)
        for at, piece in enumerate(pieces):
            row.add(self._wording.gap) if at else None
            row.add(self._a["pieces"][piece])
        asked = [(question, absent)]
        if not absent:
            there = set(pieces)
            same = [int(q) for q in self._of_context[context] if q != question]
            rng.shuffle(same)
            held = [q for q in same if len(g := self._a["gold"][q]) and there.issuperset(g)]
            asked += [(q, False) for q in held[: int(rng.integers(0, _FURTHER + 1))]]
        rng.shuffle(asked)
        self._ask(rng, row, asked, {}, length, {})
        return row

    def cloze(self, rng: Generator, length: int) -> Row:
        """A text, then sentences of it with a name or a number left out."""
        body = int(length * rng.uniform(0.5, 0.75))
        parts = self._stretches(rng, body, running=rng.random() < 0.6)
        return cloze_row(rng, length, parts, self._wording)

    def quotes(self, rng: Generator, length: int) -> Row:
        """A text, then beginnings of stretches of it that are to be continued."""
        body = int(length * rng.uniform(0.45, 0.75))
        parts = self._stretches(rng, body, running=rng.random() < 0.4)
        return quotes_row(rng, length, parts, self._wording)

    def summary(self, rng: Generator, length: int) -> Row:
        """A document, or as much of it as there is room for, and its summary."""
        row = Row()
        for _ in range(12):
            number = self._summaries.draw(rng)
            document = int(self._flat["summary_source"][number][1])
            ids = self._a["documents"][document]
            if length // 3 <= len(ids) + 300 <= length:
                break
        taught = self._a["summaries"][number][: length // 3]
        request = self._a["requests"][document]
        wording = self._wording
        if len(request):
            before, behind = wording.prefix, [*request, *wording.cue]
        else:
            before, behind = wording.summary[min(12, int(self._flat["sentences"][number]))]
        room = length - len(before) - len(behind) - len(taught) - len(wording.end)
        row.add(before)
        row.add(ids[: max(0, room)])
        row.add(behind)
        row.add([*taught, *wording.end], taught=True)
        return row

    def _exchange(
        self,
        rng: Generator,
        items: Sequence[Any],
        passages: list[list[Ids]],
        asked: list[tuple[int, bool]],
    ) -> tuple[list[list[Ids]], Mapping[int, Ids], list[tuple[int, bool]]]:
        """Exchange answers in the passages; gives them, new labels, and questions still asked."""
        if not self._exchanged:
            return passages, {}, asked
        number = {item: at for at, item in enumerate(items) if isinstance(item, int)}
        answered = [(q, number.get(self._context_of(q))) for q, absent in asked if not absent]
        quiz = [self._quiz(q, at, passages[at]) for q, at in answered if at is not None]
        made = exchange_answers(
            rng, passages, quiz, self._wording.shapes, share=self._exchanged,
            draw=partial(self._answer_like, rng),
        )  # fmt: skip
        return made.passages, made.labels, [q for q in asked if q[0] not in made.spoilt]

    def _ask(
        self,
        rng: Generator,
        row: Row,
        asked: Sequence[tuple[int, bool]],
        places: Mapping[int, list[tuple[int, int]]],
        length: int,
        labels: Mapping[int, Ids],
    ) -> None:
        """Append questions with their answers, as turns of a conversation, as long as they fit.

        Labels are the answers that were exchanged, by question.
        """
        wording = self._wording
        said = set()
        for question, absent in asked:
            words = self._a["questions"][question].tobytes()
            if words in said:
                continue
            said.add(words)
            kind = "bare_questions" if rng.random() < 0.3 else "questions"
            ids = [*self._a[kind][question], *wording.cue]
            answers = self._a["question_answers"][question]
            # Any of the accepted ones, the shortest first.
            pick = answers[int(rng.integers(len(answers)))] if rng.random() < 0.3 else answers[0]
            answer = wording.not_found if absent else self._a["answers"][int(pick)]
            answer = labels.get(question, answer)
            place = row.ask(np.asarray(ids), np.asarray(answer), wording, length=length)
            context = self._context_of(question)
            if place is not None and not absent and context in places:
                first = int(self._piece_starts[context])
                gold = [places[context][int(p) - first] for p in self._a["gold"][question]]
                if gold:
                    row.looks.append(Look(*place, gold))
