"""Rows of kind "quotes": the first words of a stretch are given, what follows them is asked for.

The answer stands in the row word for word and cannot be guessed, so every token of it counts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from cca_models.adaptation.ragged import Ids
from cca_models.adaptation.row import Row, text_row
from cca_models.adaptation.wording import Wording

# Tokens given and asked for; and stretches that may be too short or find no room.
_GIVEN, _ASKED = (3, 8), (12, 64)
_MISSES = 8


def quotes_row(rng: Generator, length: int, parts: Sequence[Ids], wording: Wording) -> Row:
    """Put a text, then beginnings of stretches of it, into a row.

    Args:
        rng: What draws the stretches.
        length: Tokens at most.
        parts: The text, in stretches with a gap between them.
        wording: Around them.
    """
    row = text_row(parts, wording)
    least, most = _ASKED
    misses = 0
    while parts and misses < _MISSES:
        part = parts[int(rng.integers(len(parts)))]
        given = int(rng.integers(*_GIVEN, endpoint=True))
        if len(part) < given + least:
            misses += 1
            continue
        asked = int(rng.integers(least, min(most, len(part) - given), endpoint=True))
        start = int(rng.integers(len(part) - given - asked, endpoint=True))
        behind = start + given
        question = np.concatenate([wording.what_follows, part[start:behind], wording.cue])
        if row.ask(question, part[behind : behind + asked], wording, length=length) is None:
            misses += 1
            # Shorter ones may fit yet.
            most = max(least, most // 2)
    return row
