"""One row of training tokens, while it is put together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cca_models.adaptation.ragged import Ids

# Questions at most in a row, by its tokens; and tokens kept free for each with its answer.
_LENGTHS, _QUESTIONS = (1024, 2048, 4096, 8192, 32768), (4, 8, 20, 40, 96)
TURN = 44


def most_questions(length: int) -> int:
    """Give how many questions a row of so many tokens holds at most."""
    return int(np.interp(length, _LENGTHS, _QUESTIONS))


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
        self.ids.append(np.asarray(ids, np.int64))
        if taught:
            self.taught.append((start, self.length))
        return start, self.length
