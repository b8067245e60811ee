"""What reading gives back: answers and summaries, with the places they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

ReadMode = Literal["focus", "core", "lexical"]
READ_MODES: tuple[ReadMode, ...] = get_args(ReadMode)

NOT_FOUND = "Not found in the document."


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """A place in the document that an answer rests on.

    Attributes:
        doc: Name of the document.
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
    page: int
    page_label: str | None
    quote: str
    start: int
    end: int
    verified: bool
    supports: bool


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
    """

    title: str
    first_page: int
    last_page: int
    summary: str
    parts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A summary of a whole document.

    Attributes:
        summary: The text.
        sections: What it was made from, in reading order; together they cover every page.
        pages: Pages read, the ones without text included.
        rounds: How many times summaries were summarised.
        warnings: One sentence each, for the user.
    """

    summary: str
    sections: tuple[Section, ...]
    pages: int
    rounds: int
    warnings: tuple[str, ...] = field(default=())
