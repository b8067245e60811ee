"""Questions made from plain text: blanks to fill in, and invented facts to find again.

They teach nothing about the world; they make every sentence of a long text worth remembering, in
any number and never the same twice.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cca_models.reading.passages import sentences

# A name of one to four words inside a sentence, or a number.
_NAME = re.compile(
    r"(?<=[a-z,] )((?:[A-Z][a-z’']+(?:-[A-Z][a-z]+)?)(?: (?:of |de |van )?[A-Z][a-z’']+){0,3}"
    r"|\d[\d,.]*\d|\d{2,})(?=[ ,.;:?!)])"
)
_SHORTEST, _LONGEST = 60, 320
_BLANK = "____"
_AROUND = 500  # characters of text on either side of the sentence

_THINGS = (
    "access code", "shelf mark", "serial number", "locker number", "membership number",
    "parcel number", "room number", "invoice number", "plot number", "catalogue number",
)  # fmt: skip
_PEOPLE = (
    "Abel Anders", "Bea Calloway", "Cora Whitlock", "Dario Fontane", "Edda Brandt", "Farid Osman",
    "Greta Holm", "Hugo Maris", "Ines Ferro", "Jonas Pike", "Kira Stolz", "Leon Achter",
    "Mira Vogel", "Nils Berg", "Oda Finch", "Pavel Zorn", "Quentin Shaw", "Rosa Linde",
    "Selim Aydin", "Tessa Moor", "Ulla Grane", "Viktor Hess", "Wanda Krol", "Yara Costa",
)  # fmt: skip
_PLACES = (
    "the Pellworm lighthouse", "the Ardmore station", "the Quill library", "the Saltmarsh depot",
    "the Hollin mill", "the Brandt archive", "the Cobalt theatre", "the Fennick harbour",
    "the Orchard clinic", "the Tallow bridge", "the Marlow observatory", "the Vesper hotel",
)  # fmt: skip
_COLOURS = ("red", "green", "blue", "white", "yellow", "black", "violet", "orange", "silver")
_ANIMALS = ("heron", "badger", "otter", "falcon", "lynx", "marten", "raven", "stoat", "plover")


def blanks(texts: Sequence[str], count: int, *, seed: int) -> Iterator[Mapping[str, Any]]:
    """Make questions that ask for a name or number left out of a sentence.

    Args:
        texts: Whole documents.
        count: Questions at most.
        seed: Equal seeds make equal questions.

    Yields:
        Records as reading comprehension has them: context, question, answers, title.
    """
    rng = random.Random(seed)
    for _ in range(count * 3):
        if count == 0:
            return
        text = rng.choice(texts)
        if len(text) < 4 * _AROUND:
            continue
        start = rng.randrange(len(text) - 3 * _AROUND)
        context = text[start : start + 2 * _AROUND + rng.randrange(_AROUND)]
        cut = [(a, b) for a, b in sentences(context)[1:-1] if _SHORTEST <= b - a <= _LONGEST]
        asked = []
        for a, b in rng.sample(cut, min(2, len(cut))):
            names = [m for m in _NAME.finditer(context[a:b]) if context.count(m[1]) == 1]
            if names:
                asked.append((a, b, rng.choice(names)))
        for a, b, name in asked:
            sentence = " ".join(context[a:b].split())
            question = sentence.replace(name[1], _BLANK, 1)
            if _BLANK not in question or count == 0:
                continue
            count -= 1
            yield {
                "context": context,
                "question": f"Fill in the blank: {_shortened(question, rng)}",
                "answers": [name[1]],
            }


def _shortened(question: str, rng: random.Random) -> str:
    """Keep all, or only some words on either side of the blank: fewer words to find it by."""
    words = question.split()
    at = next(i for i, word in enumerate(words) if _BLANK in word)
    before, after = rng.choice(((99, 99), (8, 8), (6, 4), (4, 6)))
    return " ".join(words[max(0, at - before) : at + after + 1])


def facts(count: int, *, seed: int) -> Iterator[Mapping[str, Any]]:
    """Make invented facts of one sentence, each with its question."""
    rng = random.Random(seed)
    for _ in range(count):
        person, place, thing = rng.choice(_PEOPLE), rng.choice(_PLACES), rng.choice(_THINGS)
        number = str(rng.randrange(1000, 10**7))
        word = f"{rng.choice(_COLOURS)} {rng.choice(_ANIMALS)}"
        sentence, question, answer = rng.choice(
            (
                (f"The {thing} of {person} at {place} is {number}.",
                 f"What is the {thing} of {person} at {place}?", number),
                (f"{person} keeps the {thing} {number} for {place}.",
                 f"Which {thing} does {person} keep for {place}?", number),
                (f"The password that {person} chose for {place} is “{word}”.",
                 f"What password did {person} choose for {place}?", word),
                (f"At {place}, the {thing} {number} belongs to {person}.",
                 f"To whom does the {thing} {number} at {place} belong?", person),
            )
        )  # fmt: skip
        yield {"context": sentence, "question": question, "answers": [answer]}
