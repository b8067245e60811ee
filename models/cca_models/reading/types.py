"""What reading gives back: answers and summaries, with the places they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from cca_models.documents import Unit

ReadMode = Literal["focus", "core", "lexical"]
READ_MODES: tuple[ReadMode, ...] = get_args(ReadMode)

NOT_FOUND = "Not found in the document."


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """A place in the document that an answer rests on.

    Attributes:
        doc: Name of the document.
        path: Where the document is; "-" for standard input.
        unit: What `page` counts: "page" or "section".
        page: Page or section number, from 1.
        page_label: Printed label, if the page has one.
        quote: Words of that page.
        start: First character of the quote in the page's text.
        end: The character after its last.
        verified: Whether the quote stands there, letter by letter.
        supports: Whether the quote holds the answer's own words; if not, it is only where the
            passage was found that the question led to.
    """

    doc: str
    path: str
    unit: Unit
    page: int
    page_label: str | None
    quote: str
    start: int
    end: int
    verified: bool
    supports: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """How answers are written.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        temperature: 0 for greedy.
        top_p: Nucleus for sampling.
        seed: Seed for sampling.
        passages: Passages read for one answer.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    passages: int = 3


@dataclass(frozen=True, slots=True)
class Turn:
    """What was asked before, and answered."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer with its evidence.

    Attributes:
        question: As asked.
        answer: The text.
        found: False if the document does not say; None if the model answered in words that are
            not in what it read, so that nobody can tell.
        citations: Best support first.
        read: The way it was read.
        usage: Token counts: prompt_tokens, cached_tokens, new_tokens.
        timing_s: Seconds: locate, first_token, decode.
        finish: Why the text ends: "eos", "stop", "length" (cut short) or "loop" (it repeated
            itself and was cut).
        warnings: One sentence each, for the user.
    """

    question: str
    answer: str
    found: bool | None
    citations: tuple[Citation, ...]
    read: ReadMode
    usage: Mapping[str, int]
    timing_s: Mapping[str, float]
    finish: str | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A stretch of a document with its summary.

    Attributes:
        title: From the outline, or the page range.
        first_page: Number of its first page.
        last_page: Number of its last page.
        summary: The text.
        parts: Window-sized pieces that it was read in.
        verbatim: Whether the summary is the text itself, which is no longer than one would be.
    """

    title: str
    first_page: int
    last_page: int
    summary: str
    parts: int
    verbatim: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How much of a document went into a summary, counted while it was read.

    Attributes:
        pages: Pages of the document.
        read: Pages all of whose text the model was given, those without text included.
        without_text: Numbers of the pages that have none.
        parts: Window-sized pieces that were read.
    """

    pages: int
    read: int
    without_text: tuple[int, ...]
    parts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A summary of a whole document.

    Attributes:
        summary: The text.
        sections: What it was made from, in reading order; together they cover every page.
        pages: Pages read, the ones without text included.
        coverage: How much of the document was read.
        rounds: How many times summaries were summarised.
        warnings: One sentence each, for the user.
    """

    summary: str
    sections: tuple[Section, ...]
    pages: int
    coverage: Coverage
    rounds: int
    warnings: tuple[str, ...] = field(default=())
