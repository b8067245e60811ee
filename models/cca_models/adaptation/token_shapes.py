"""What the tokens of a vocabulary look like: where words begin, what is a name or a number."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cca_models.adaptation.ragged import Ids
from cca_models.tokenizer import Tokenizer

# Longer ones are lists or headings as often as names.
_LONGEST = 8
# Capitals that tell of no one.
_NO_NAMES = frozenset({"I", "Mr", "Mrs", "Ms", "Dr", "St", "II", "III"})


class Shape(IntEnum):
    """What a token's first visible character makes it: SPACE has none."""

    OTHER = 0
    SPACE = 1
    NUMBER = 2
    NAME = 3
    WORD = 4


@dataclass(frozen=True, slots=True)
class TokenShapes:
    """Looks of all tokens of a vocabulary of V.

    Attributes:
        texts: Text of each token, V.
        shape: Its Shape, uint8 [V].
        spaced: Whether it begins with white space, [V].
    """

    texts: tuple[str, ...]
    shape: NDArray[Any]
    spaced: NDArray[Any]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "TokenShapes":
        """Look at all tokens of a tokenizer."""
        texts = tuple(tokenizer.decode([token]) for token in range(tokenizer.vocab_size))
        return cls(
            texts,
            np.asarray([_shape(text) for text in texts], np.uint8),
            np.asarray([text[:1].isspace() for text in texts], np.bool_),
        )

    def text(self, ids: Iterable[int]) -> str:
        """Spell tokens; a character that is cut between two of them is not whole."""
        return "".join(self.texts[int(token)] for token in ids)

    def shape_of(self, ids: Ids) -> Shape:
        """Give the shape of the first word: of the first token that is not white space alone."""
        for shape in self.shape[ids]:
            if shape != Shape.SPACE:
                return Shape(shape)
        return Shape.OTHER

    def goes_on(self, token: int) -> bool:
        """Tell whether a token belongs to the word before it."""
        return bool(self.shape[token] >= Shape.NUMBER and not self.spaced[token])

    def names_and_numbers(self, ids: Ids) -> list[tuple[int, int]]:
        """Find names and numbers in the midst of sentences.

        Args:
            ids: A running text, [N].

        Returns:
            First token and one past the last of each, with the space before it.
        """
        words = self._words(ids)
        found = []
        at = 0
        while at < len(words):
            start, end, shape = words[at]
            at += 1
            # Behind anything but a small letter a capital may just begin a sentence.
            if shape == Shape.OTHER or not start or not self._small_end(int(ids[start - 1])):
                continue
            while shape == Shape.NAME and at < len(words) and words[at][0] == end:
                if words[at][2] != Shape.NAME:
                    break
                end = words[at][1]
                at += 1
            if shape == Shape.NUMBER:
                end = self._number_end(ids, end)
            if end - start <= _LONGEST:
                found.append((start, end))
        return found

    def _words(self, ids: Ids) -> list[tuple[int, int, Shape]]:
        """Find words with the white space before them: NAME, NUMBER, or OTHER for all else."""
        shapes: list[int] = self.shape[ids].tolist()
        spaced: list[bool] = self.spaced[ids].tolist()
        words = []
        at = 0
        while at < len(shapes):
            start, at = at, at + 1
            if not spaced[start]:
                continue
            while at < len(shapes) and shapes[at] >= Shape.NUMBER and not spaced[at]:
                at += 1
            # A space may be a token of its own, before a digit say.
            first = shapes[start]
            if first == Shape.SPACE and at > start + 1:
                first = shapes[start + 1]
            named = first in (Shape.NUMBER, Shape.NAME) and self._is_plain(ids[start:at])
            words.append((start, at, Shape(first) if named else Shape.OTHER))
        return words

    def _is_plain(self, word: Ids) -> bool:
        text = self.text(word).strip()
        return text not in _NO_NAMES and text.isalnum()

    def _small_end(self, token: int) -> bool:
        return self.texts[token][-1:].islower()

    def _number_end(self, ids: Ids, end: int) -> int:
        """Go on over the points and commas inside a number."""
        while (
            end + 1 < len(ids)
            and self.texts[int(ids[end])] in (".", ",")
            and self.texts[int(ids[end + 1])][:1].isdigit()
        ):
            end += 2
            while end < len(ids) and self.goes_on(int(ids[end])):
                end += 1
        return end


def _shape(text: str) -> Shape:
    first = text.lstrip()[:1]
    if not first:
        return Shape.SPACE if text else Shape.OTHER
    if first.isdigit():
        return Shape.NUMBER
    if not first.isalpha():
        return Shape.OTHER
    return Shape.NAME if first.isupper() else Shape.WORD
