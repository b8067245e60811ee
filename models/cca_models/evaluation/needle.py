"""A needle in a book: one sentence with a random fact, at every depth and length.

After G. Kamradt's test (github.com/gkamradt/LLMTest_NeedleInAHaystack): the text of a book is cut
to the length, the sentence stands at a share of it, and the fact is asked for. Facts and places are
drawn anew for every cell.
"""

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cca_models.evaluation import data
from cca_models.evaluation.contexts import TextCache, cut_pages
from cca_models.evaluation.metrics import substring_match
from cca_models.evaluation.results import figure, grouped, length_name
from cca_models.evaluation.types import (
    Cell,
    EvaluationError,
    Method,
    Row,
    Table,
    TaskOptions,
    Unit,
)

_DEFAULT = "whole_books"
_LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
DEPTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_REPEATS = 2
_MAX_NEW_TOKENS = 24
# Longest question and sentence; what they really take is a little less.
_SENTENCE_TOKENS = 40
# Small pages, so that a context falls short of its length by little.
_PAGE_CHARACTERS = 600
_TOWNS = (
    "Harlow", "Penrith", "Dunmore", "Ashby", "Kelso", "Ravenna", "Lund", "Tarbert", "Oakham",
    "Sandwick", "Marlow", "Bergen", "Trieste", "Cobh", "Whitby", "Lorne", "Segovia", "Arnhem",
)  # fmt: skip
_SENTENCE_END = re.compile(r"[.!?](?=\s)")
_THINGS = ("lighthouse", "archive", "observatory", "mill", "harbour office", "museum", "station")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    length: int
    depth: float
    repeat: int
    question: str
    answer: str
    pages: tuple[str, ...]
    room: int


class Needle:
    """Questions about a sentence that was put into a book.

    Args:
        options: As asked for; the limit is the needles for every length and depth.
    """

    name = "needle"

    def __init__(self, options: TaskOptions) -> None:
        self._options = options
        path = options.data_file or data.find(options.data, _DEFAULT, task=self.name)
        self.files = [path]
        self._tokens = options.max_new_tokens or _MAX_NEW_TOKENS
        self._texts = [str(record["text"]) for record in data.load(path, fields=("text",))]

    def settings(self) -> Mapping[str, Any]:
        """Give what changes answers to equal questions."""
        return {"max_new_tokens": self._tokens}

    def methods(self, asked: Sequence[str]) -> Sequence[str]:
        """Run all that were asked for."""
        return asked

    def units(self) -> Sequence[Unit]:
        """Make a unit of each needle: length by length, depth by depth."""
        cache = TextCache(self._options.tokenizer)
        pages = [
            [(page, len(cache.passage(page))) for page in cut_pages(t, characters=_PAGE_CHARACTERS)]
            for t in self._texts
        ]
        units = []
        for length in self._options.lengths or _LENGTHS:
            long_enough = [p for p in pages if sum(tokens for _, tokens in p) >= length]
            if not long_enough:
                raise EvaluationError(
                    f"{self.files[0]}: no text has {length:,} tokens", hint="a shorter --len"
                )
            for depth in DEPTHS:
                for repeat in range(self._options.limit or _REPEATS):
                    cell = self._cell(long_enough, cache, length, depth, repeat)
                    key = f"{length}/{depth:g}/{repeat}"
                    units.append(Unit(key=key, tokens=length, data=cell))
        return units

    def _cell(
        self,
        books: Sequence[Sequence[tuple[str, int]]],
        cache: TextCache,
        length: int,
        depth: float,
        repeat: int,
    ) -> _Cell:
        # A digest rather than hash(): the same in every process.
        seed = hashlib.sha256(f"{self._options.seed} {length} {depth} {repeat}".encode()).digest()
        rng = random.Random(seed)
        what = f"the {rng.choice(_TOWNS)} {rng.choice(_THINGS)}"
        answer = str(rng.randrange(10_000, 99_999))
        question = f"What is the secret number of {what}?"
        room = cache.room([question], self._tokens)
        budget = length - len(cache.prefix) - room - _SENTENCE_TOKENS
        book = books[repeat % len(books)]
        # The book's end, too, is of use: begin anywhere from which there is enough left.
        spare = sum(tokens for _, tokens in book) - length
        first = 0
        skip = rng.randrange(spare + 1)
        while first < len(book) and skip >= book[first][1]:
            skip -= book[first][1]
            first += 1
        chosen: list[tuple[str, int]] = []
        for page in book[first:]:
            if budget < page[1]:
                break
            budget -= page[1]
            chosen.append(page)
        if not chosen:
            raise EvaluationError(f"--len {length}: too short for a page of a book")
        needle = f"The secret number of {what} is {answer}."
        pages = _insert([page for page, _ in chosen], [n for _, n in chosen], needle, depth)
        return _Cell(
            length=length, depth=depth, repeat=repeat, question=question, answer=answer,
            pages=tuple(pages), room=room,
        )  # fmt: skip

    def run(self, unit: Unit, method: Method) -> list[Row]:
        """Read the text and ask for the fact."""
        cell: _Cell = unit.data
        reading = method.read(cell.pages, room=cell.room)
        reply = reading.ask(cell.question, max_new_tokens=self._tokens)
        return [
            {
                "key": unit.key,
                "length": cell.length,
                "tokens": reading.tokens,
                "depth": cell.depth,
                "question": cell.question,
                "answers": [cell.answer],
                "reply": reply.text,
                "metrics": {"found": substring_match(reply.text, [cell.answer])},
            }
        ]

    def table(self, rows: Sequence[Row]) -> Table:
        """Sum up by length and method over all depths, and show the depths' means beside it."""
        lines: list[tuple[Cell, ...]] = []
        for (length, method), members in grouped(rows, "length", "method").items():
            at = grouped(members, "depth")
            means = [
                None if (f := figure(r["metrics"]["found"] for r in at.get((d,), []))) is None
                else f"{100 * f.mean:.0f}"
                for d in DEPTHS
            ]  # fmt: skip
            every = figure(row["metrics"]["found"] for row in members)
            lines.append((length_name(length), method, every, *means))
        return Table(
            task=self.name,
            title="needle: a sentence in a book is found, by tokens of context and depth",
            columns=("length", "method", "found", *(f"{100 * depth:.0f} %" for depth in DEPTHS)),
            lines=tuple(lines),
        )


def _insert(pages: list[str], tokens: list[int], needle: str, depth: float) -> list[str]:
    """Put a sentence behind the paragraph or sentence that ends next to a share of the text."""
    target = depth * sum(tokens)
    place, before = 0, 0
    while place < len(pages) - 1 and before + tokens[place] <= target:
        before += tokens[place]
        place += 1
    page = pages[place]
    at = round(len(page) * min(1.0, (target - before) / max(1, tokens[place])))
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(page)), len(page)]
    cut = min(ends, key=lambda end: abs(end - at))
    parts = (page[:cut].strip(), needle, page[cut:].strip())
    return [*pages[:place], " ".join(part for part in parts if part), *pages[place + 1 :]]
