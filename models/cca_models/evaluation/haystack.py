"""Questions among passages: contexts of a length, several questions to one, gold at spread depths.

Every question has its gold passage in its context and its listed distractors beside it, as many as
fit, best first. Longer contexts are shared: at 8K tokens by two questions, at 16K by four and so
on, so that at every length about as many tokens are read in all. What is left is filled with other
passages of the file. Questions whose answer was taken out of the context lose their gold passage,
and with it every other passage that holds one of their answers.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from cca_models.evaluation.contexts import TextCache
from cca_models.evaluation.types import Unit

# Tokens of context for every question that shares one.
TOKENS_PER_QUESTION = 4096
# Misfits in a row before a context counts as full.
_PATIENCE = 20
# Phases of the depths: multiples of this are spread evenly, however many there will be.
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A question.

    Attributes:
        id: Unique in its file.
        question: As asked.
        answers: Any is right.
        gold: Place in the pool of the passage that holds the answer.
        near: Places of distractors, best first.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    gold: int
    near: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Questions, and the passages that contexts are made of."""

    items: tuple[Item, ...]
    passages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A question in its context.

    Attributes:
        item: The question.
        place: Place of its gold passage in the context; None if it was taken out.
        depth: Share of the context's tokens before the gold passage.
    """

    item: Item
    place: int | None
    depth: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Haystack:
    """A context and its questions.

    Attributes:
        length: Tokens that it was made for.
        passages: Its passages in order.
        asked: The questions.
        room: Tokens for a question and its answer.
    """

    length: int
    passages: tuple[str, ...]
    asked: tuple[Asked, ...]
    room: int


class Stacker:
    """Makes contexts from a pool.

    Args:
        pool: Questions and passages.
        texts: Cuts passages into tokens.
        seed: Of the choice and the order of everything.
        max_new_tokens: Most tokens of an answer.
        unanswerable: Share of the questions whose answer is taken out.
    """

    def __init__(
        self,
        pool: Pool,
        texts: TextCache,
        *,
        seed: int,
        max_new_tokens: int,
        unanswerable: float = 0.0,
    ) -> None:
        self._pool, self._seed, self._unanswerable = pool, seed, unanswerable
        self._tokens = [len(texts.passage(passage)) for passage in pool.passages]
        self._lower = [passage.lower() for passage in pool.passages] if unanswerable else []
        self.room = texts.room([item.question for item in pool.items], max_new_tokens)
        self._overhead = len(texts.prefix) + self.room
        self._order = list(pool.items)
        random.Random(f"{seed} questions").shuffle(self._order)

    def units(self, lengths: Sequence[int], limit: int | None) -> Iterator[Unit]:
        """Make the units of some lengths, each with the same first questions."""
        items = self._order[:limit]
        for length in lengths:
            share = max(1, length // TOKENS_PER_QUESTION)
            for number, start in enumerate(range(0, len(items), share)):
                group = items[start : start + share]
                # Equal groups have equal keys, whatever the limit is.
                digest = hashlib.sha256(" ".join(item.id for item in group).encode()).hexdigest()
                haystack = self._stack(group, length, number)
                yield Unit(key=f"{length}/{digest[:12]}", tokens=length, data=haystack)

    def _stack(self, group: Sequence[Item], length: int, number: int) -> Haystack:
        rng = random.Random(f"{self._seed} {length} {' '.join(item.id for item in group)}")
        removed = self._remove(group)
        gold = {item.gold for item in group if item.id not in removed}
        chosen = self._choose(group, gold, removed, length - self._overhead, rng)
        order = self._arrange(sorted(gold), [i for i in chosen if i not in gold], number, rng)
        starts, total = {}, 0
        for i in order:
            starts[i] = total
            total += self._tokens[i]
        places = {i: place for place, i in enumerate(order)}
        asked = [
            Asked(item=item, place=None, depth=None)
            if item.id in removed
            else Asked(item=item, place=places[item.gold], depth=starts[item.gold] / total)
            for item in group
        ]
        return Haystack(
            length=length, passages=tuple(self._pool.passages[i] for i in order),
            asked=tuple(asked), room=self.room,
        )  # fmt: skip

    def _remove(self, group: Sequence[Item]) -> set[str]:
        """Choose the questions that lose their answer; not those whose gold another one needs."""
        if not self._unanswerable:
            return set()
        drawn = {
            item.id
            for item in group
            if random.Random(f"{self._seed} unanswerable {item.id}").random() < self._unanswerable
        }
        needed = {item.gold for item in group if item.id not in drawn}
        return {item.id for item in group if item.id in drawn and item.gold not in needed}

    def _choose(
        self,
        group: Sequence[Item],
        gold: set[int],
        removed: set[str],
        budget: int,
        rng: random.Random,
    ) -> list[int]:
        """Choose the passages: all gold ones, distractors rank by rank, then any others."""
        missing = [item for item in group if item.id in removed]
        banned = {item.gold for item in missing}
        answers = [a.lower() for item in missing for a in item.answers if len(a) > 2]
        others = list(range(len(self._pool.passages)))
        rng.shuffle(others)
        near = chain.from_iterable(zip_longest(*(item.near for item in group)))
        chosen = sorted(gold)
        budget -= sum(self._tokens[i] for i in chosen)
        taken, misfits = set(chosen) | banned, 0
        for i in chain(near, others):
            if i is None or i in taken:
                continue
            if answers and any(answer in self._lower[i] for answer in answers):
                continue
            if self._tokens[i] > budget:
                misfits += 1
                if misfits == _PATIENCE:
                    break
                continue
            misfits = 0
            taken.add(i)
            chosen.append(i)
            budget -= self._tokens[i]
        return chosen

    def _arrange(
        self, gold: list[int], others: list[int], number: int, rng: random.Random
    ) -> list[int]:
        """Mix: the gold passages one to each equal stretch, at depths that differ by context."""
        rng.shuffle(gold)
        rng.shuffle(others)
        total = len(gold) + len(others)
        phase = (0.5 + number * _GOLDEN) % 1
        at = {int((j + phase) / len(gold) * total): i for j, i in enumerate(gold)}
        rest = iter(others)
        return [at[place] if place in at else next(rest) for place in range(total)]
