"""Rows of kind "cloze": names and numbers left out of sentences of the row's own text.

Unlike the source "blanks", whose questions are made once with the corpus and asked among those of
other sources, these are drawn anew with every row, of any text that it happens to hold.
"""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from cca_models.adaptation.ragged import Ids
from cca_models.adaptation.row import Row, text_row
from cca_models.adaptation.wording import Wording

# Tokens of the sentence that are shown before and behind the blank; with fewer before it than the
# least, the blank could be anywhere.
_BEFORE, _BEHIND, _LEAST_BEFORE = (5, 25), (2, 19), 4
# Blanks at most in a row, by its tokens.
_LENGTHS, _MOST = (1024, 2048, 4096, 8192, 32768), (6, 12, 30, 60, 144)


def cloze_row(rng: Generator, length: int, parts: Sequence[Ids], wording: Wording) -> Row:
    """Put a text, then sentences of it with a blank each, into a row.

    Args:
        rng: What draws the sentences.
        length: Tokens at most.
        parts: The text, in stretches with a gap between them.
        wording: Around them.
    """
    row = text_row(parts, wording)
    found = [
        (number, run)
        for number, part in enumerate(parts)
        for run in wording.shapes.names_and_numbers(part)
    ]
    most, asked = int(np.interp(length, _LENGTHS, _MOST)), 0
    for at in rng.permutation(len(found)):
        if asked >= most:
            break
        number, (start, end) = found[int(at)]
        part = parts[number]
        first = _word_start(
            part, start, start - int(rng.integers(*_BEFORE, endpoint=True)), wording
        )
        last = min(len(part), end + int(rng.integers(*_BEHIND, endpoint=True)))
        if start - first < _LEAST_BEFORE:
            continue
        question = np.concatenate(
            [wording.fill_in, part[first:start], wording.blank, part[end:last], wording.cue]
        )
        asked += row.ask(question, part[start:end], wording, length=length) is not None
    return row


def _word_start(part: Ids, end: int, wanted: int, wording: Wording) -> int:
    """Give the first place from the wanted one on where a word begins."""
    place = max(0, wanted)
    while 0 < place < end and not wording.shapes.spaced[part[place]]:
        place += 1
    return place
