"""Mixtures of rows: which lengths and kinds a training reads, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

RowKind = Literal["text", "questions", "few", "summary", "cloze", "quotes"]
KINDS: tuple[RowKind, ...] = get_args(RowKind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Portion:
    """Rows of one length.

    Attributes:
        length: Tokens a row.
        share: Of all tokens, relative to the other portions.
        kinds: Share of each kind of row.
    """

    length: int
    share: float
    kinds: Mapping[RowKind, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Rows by length, and what is done to them.

    Attributes:
        portions: Rows by length.
        exchanged: Share of the questions over many passages whose answer is exchanged.
        made: Whether questions made by rule are drawn too.
        raw_small: Share of the rows of up to two windows that are read with the whole window.
    """

    portions: Sequence[Portion]
    exchanged: float = 0.0
    made: bool = False
    raw_small: float = 0.35


# One training for everything: recall through core tokens first.
MIXED = Mixture(
    portions=(
        Portion(length=1024, share=0.10, kinds={"few": 0.85, "summary": 0.15}),
        Portion(
            length=2048,
            share=0.14,
            kinds={"questions": 0.5, "quotes": 0.13, "cloze": 0.2, "text": 0.17},
        ),
        Portion(
            length=4096,
            share=0.18,
            kinds={"questions": 0.5, "cloze": 0.15, "quotes": 0.12, "summary": 0.1, "text": 0.13},
        ),
        Portion(
            length=8192,
            share=0.30,
            kinds={"questions": 0.47, "cloze": 0.15, "quotes": 0.1, "text": 0.24, "summary": 0.04},
        ),
        Portion(length=16384, share=0.10, kinds={"questions": 0.4, "cloze": 0.12, "text": 0.48}),
        Portion(length=32768, share=0.10, kinds={"questions": 0.35, "text": 0.65}),
        Portion(length=131072, share=0.08, kinds={"questions": 0.2, "text": 0.8}),
    ),
    exchanged=0.5,
    made=True,
)
# No question: perplexity, and core tokens that hold what is said word for word. A first stage.
TEXT = Mixture(
    portions=(
        Portion(length=2048, share=0.12, kinds={"cloze": 0.5, "quotes": 0.3, "text": 0.2}),
        Portion(
            length=8192,
            share=0.73,
            kinds={"text": 0.5, "cloze": 0.25, "quotes": 0.15, "summary": 0.1},
        ),
        Portion(length=32768, share=0.15, kinds={"text": 0.8, "cloze": 0.2}),
    ),
)
# Answering from passages that are seen raw, as the reader gives them; core tokens are kept in
# use by text. Short, before answers are known by heart.
READING = Mixture(
    portions=(
        Portion(length=1024, share=0.45, kinds={"few": 0.93, "summary": 0.07}),
        Portion(length=2048, share=0.25, kinds={"questions": 0.9, "text": 0.1}),
        Portion(length=8192, share=0.30, kinds={"text": 0.78, "cloze": 0.15, "summary": 0.07}),
    ),
    raw_small=0.8,
)
MIXTURES: Mapping[str, Mixture] = {"mixed": MIXED, "text": TEXT, "reading": READING}
