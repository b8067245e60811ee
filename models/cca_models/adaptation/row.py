"""One row of training tokens, while it is put together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cca_models.adaptation.ragged import Ids
from cca_models.adaptation.wording import Wording


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

    def ask(
        self, question: Ids, answer: Ids, wording: Wording, *, length: int
    ) -> tuple[int, int] | None:
        """Append a question and its answer as a turn of the conversation.

        Args:
            question: With the cue for the answer.
            answer: Without its end.
            wording: Around them.
            length: Tokens of the row at most.

        Returns:
            The question's place; None if there is no room, and nothing is appended.
        """
        turn = wording.next_turn if self.taught else []
        tokens = len(turn) + len(question) + len(answer) + len(wording.end)
        if self.length + tokens > length:
            return None
        self.add(turn)
        place = self.add(question)
        self.add(np.concatenate([answer, wording.end]), taught=True)
        return place


def text_row(parts: Sequence[Ids], wording: Wording) -> Row:
    """Begin a row with a text: its stretches, with gaps between them."""
    row = Row()
    row.add(wording.prefix)
    for number, part in enumerate(parts):
        if number:
            row.add(wording.gap)
        row.add(part)
    return row
