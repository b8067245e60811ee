"""Rows of training tokens: texts, questions over many passages, questions over few, summaries."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator

from cca_models.adaptation.corpus import Corpus
from cca_models.adaptation.ragged import Ids
from cca_models.adaptation.wording import Wording

# Questions at most in a row, by its tokens; and tokens kept free for each with its answer.
_LENGTHS, _QUESTIONS, _TURN = (1024, 2048, 4096, 8192, 32768), (4, 8, 20, 40, 96), 44


@dataclass(frozen=True, slots=True)
class Look:
    """A question in a row: its tokens, and the runs of tokens that hold its answer."""

    start: int
    end: int
    gold: Sequence[tuple[int, int]]


@dataclass(slots=True)
class Row:
    """Tokens, which of them are to be foretold, and which questions have a place to point at.

    Attributes:
        ids: Tokens, in parts.
        taught: Runs of tokens that the loss is taken over.
        looks: Questions with a known place of their answer.
    """

    ids: list[Ids] = field(default_factory=list)
    taught: list[tuple[int, int]] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    length: int = 0

    def add(self, ids: Any, *, taught: bool = False) -> tuple[int, int]:
        """Append tokens; gives their place."""
        start, self.length = self.length, self.length + len(ids)
        self.ids.append(np.asarray(ids))
        if taught:
            self.taught.append((start, self.length))
        return start, self.length


class Arranger:
    """Builds rows from a corpus; the same generator state builds the same row.

    Args:
        corpus: Tokens of the sources.
        wording: Tokens around them.
        shares: How often each question source is drawn, by name; others are left out.
        text_shares: The same for texts.
        summary_shares: The same for summaries.
    """

    # Of the questions over many passages, and over few, so many ask for what is not there.
    absent_among_many, absent_among_few = 0.08, 0.2

    def __init__(
        self,
        corpus: Corpus,
        wording: Wording,
        *,
        shares: dict[str, float],
        text_shares: dict[str, float],
        summary_shares: dict[str, float],
    ) -> None:
        self._a, self._flat, self._wording = corpus.arrays, corpus.flat, wording
        names = corpus.sources
        self._piece_starts = self._a["context_pieces"].starts
        self._context_tokens = _sums(self._a["pieces"].lengths(), self._piece_starts)
        contexts = self._flat["question_context"]
        # No source has the number -1: held-out contexts are not drawn.
        sources = np.where(
            self._flat["held_out"][contexts], -1, self._flat["context_source"][contexts]
        )
        self._questions = _Draw(sources, names, shares)
        # Among many passages a question must say which of them it means.
        self._named = _Draw(np.where(self._flat["named"], sources, -1), names, shares)
        self._texts = _Draw(
            self._flat["text_source"], names, text_shares, weight=self._a["texts"].lengths()
        )
        self._summaries = _Draw(self._flat["summary_source"][:, 0], names, summary_shares)
        by_context = np.argsort(self._flat["question_context"], kind="stable")
        counts = np.bincount(
            self._flat["question_context"], minlength=len(self._a["context_pieces"])
        )
        self._of_context = np.split(by_context, np.cumsum(counts)[:-1])

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
        """Many passages, then many questions about them."""
        row = Row()
        row.add(self._wording.prefix)
        most = int(np.interp(length, _LENGTHS, _QUESTIONS))
        room = length - row.length - _TURN * most
        chosen, asked = self._choose(rng, most, room)
        barred = {self._context_of(question) for question, absent in asked if absent}
        inserted = self._fill(rng, chosen, barred, room)
        rng.shuffle(inserted)
        titled = rng.random() < 0.6
        places: dict[int, list[tuple[int, int]]] = {}
        for at, item in enumerate(inserted):
            if at:
                row.add(self._wording.gap)
            if isinstance(item, int):
                places[item] = self._add_context(row, item, titled=titled)
            else:
                row.add(item)
        rng.shuffle(asked)
        self._ask(rng, row, asked, places, length)
        return row

    def few(self, rng: Generator, length: int) -> Row:
        """A handful of passages as the reader finds them, then a question or two."""
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
        others = [int(p) for p in self._a["neighbours"][question] if p not in own]
        pieces = [] if absent else list(gold)
        nearest, others = others[:4], others[4:]
        rng.shuffle(others)
        others = nearest + others
        # What stands beside the answer is found beside it, too.
        beside = [p for p in own if p not in gold][:2]
        if not absent and rng.random() < 0.3:
            pieces += beside
        others += [self._any_piece(rng) for _ in range(4)]
        room = length - row.length - 4 * _TURN
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
            asked += [(q, False) for q in held[: int(rng.integers(0, 4))]]
        rng.shuffle(asked)
        self._ask(rng, row, asked, {}, length)
        return row

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

    def _choose(
        self, rng: Generator, most: int, room: int
    ) -> tuple[list[int], list[tuple[int, bool]]]:
        """Draw questions with the contexts they need; and some whose context stays out."""
        chosen: list[int] = []
        asked: list[tuple[int, bool]] = []
        used = tries = 0
        absent = rng.binomial(most, self.absent_among_many)
        while len(asked) < most - absent and tries < 6 * most:
            tries += 1
            question = self._named.draw(rng)
            context = self._context_of(question)
            if context in chosen:
                continue
            cost = int(self._context_tokens[context]) + 12
            if used + cost > 0.7 * room:
                continue
            chosen.append(context)
            used += cost
            here = [
                int(q)
                for q in self._of_context[context]
                if q != question and self._flat["named"][q]
            ]
            rng.shuffle(here)
            # More from a long context: reading it cost more.
            several = int(rng.integers(0, 5 + min(8, cost // 400)))
            asked += [(q, False) for q in [question, *here[:several]]]
        asked = asked[: most - absent]
        present = set(chosen)
        # As many without an answer as belong to those with one.
        for _ in range(round(len(asked) * absent / max(1, most - absent))):
            question = self._named.draw(rng)
            if self._context_of(question) not in present:
                asked.append((question, True))
        return chosen, asked

    def _fill(self, rng: Generator, chosen: list[int], barred: set[int], room: int) -> list[Any]:
        """Add distractors until the room is used: contexts, or stretches of a text."""
        items: list[Any] = list(chosen)
        used = sum(int(self._context_tokens[c]) + 12 for c in chosen)
        present = set(chosen)
        near = [
            int(np.searchsorted(self._piece_starts, piece, side="right")) - 1
            for context in chosen
            for question in self._of_context[context][:1]
            for piece in self._a["neighbours"][question][:6]
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
            cost = int(self._context_tokens[context]) + 12
            out = context in present or context in barred or self._flat["held_out"][context]
            if out or used + cost > room:
                misses += 1
                continue
            present.add(context)
            items.append(context)
            used += cost
        return items

    def _add_context(self, row: Row, context: int, *, titled: bool) -> list[tuple[int, int]]:
        """Append a context as running text; gives the place of each of its pieces."""
        title = self._a["titles"][context]
        if titled and len(title):
            row.add(title)
            row.add(self._wording.line)
        places = []
        for i, piece in enumerate(self._a["context_pieces"][context]):
            places.append(row.add(self._a["continued" if i else "pieces"][int(piece)]))
        return places

    def _ask(
        self,
        rng: Generator,
        row: Row,
        asked: Sequence[tuple[int, bool]],
        places: dict[int, list[tuple[int, int]]],
        length: int,
    ) -> None:
        """Append questions with their answers, as turns of a conversation, as long as they fit."""
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
            turn = wording.next_turn if row.taught else []
            if row.length + len(turn) + len(ids) + len(answer) + len(wording.end) > length:
                continue
            row.add(turn)
            start, end = row.add(ids)
            context = self._context_of(question)
            if not absent and context in places:
                first = int(self._piece_starts[context])
                gold = [places[context][int(p) - first] for p in self._a["gold"][question]]
                if gold:
                    row.looks.append(Look(start, end, gold))
            row.add([*answer, *wording.end], taught=True)

    def _context_of(self, question: int) -> int:
        return int(self._flat["question_context"][question])

    def _any_piece(self, rng: Generator) -> int:
        """Draw a piece of some question's context."""
        context = self._context_of(self._questions.draw(rng))
        return int(rng.choice(self._a["context_pieces"][context]))

    def _cost(self, piece: int) -> int:
        return len(self._a["pieces"][piece]) + 1


class _Draw:
    """Draws records: a source by its share, then one of its records.

    Args:
        source: Source of each record.
        names: Names of the sources.
        shares: By name.
        weight: Of each record among those of its source; equal by default.
    """

    def __init__(
        self,
        source: Ids,
        names: Sequence[str],
        shares: dict[str, float],
        weight: Ids | None = None,
    ) -> None:
        self._of: dict[int, Ids] = {}
        self._sums: dict[int, Ids] = {}
        for place, name in enumerate(names):
            records = np.flatnonzero(source == place)
            if shares.get(name, 0) > 0 and len(records):
                self._of[place] = records
                each = np.ones(len(records)) if weight is None else weight[records]
                self._sums[place] = np.cumsum(each) / each.sum()
        self._places = list(self._of)
        share = np.asarray([shares[names[p]] for p in self._places])
        self._share = np.cumsum(share) / share.sum() if len(share) else share

    def source(self, rng: Generator) -> int:
        """Draw a source."""
        return self._places[int(np.searchsorted(self._share, rng.random()))]

    def of(self, rng: Generator, source: int) -> int:
        """Draw one of a source's records."""
        at = int(np.searchsorted(self._sums[source], rng.random()))
        return int(self._of[source][min(at, len(self._of[source]) - 1)])

    def draw(self, rng: Generator) -> int:
        """Draw a record."""
        return self.of(rng, self.source(rng))


def _sums(lengths: Ids, starts: Ids) -> Ids:
    """Add up the lengths of the pieces of each context."""
    total = np.concatenate([[0], np.cumsum(lengths)])
    return np.asarray(total[starts[1:]] - total[starts[:-1]])
