"""Summarising a whole document: window-sized parts first, then their summaries.

Every character of every page reaches the model: parts are filled with passages one after the other,
along the outline where there is one, and nothing is skipped. A part fits the window, so it is read
with the base model's full attention.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

from cca_models.documents import Document
from cca_models.reading import prompts
from cca_models.reading.passages import Span, cut_passages
from cca_models.reading.types import Coverage, Section, Summary

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel

Length = Literal["short", "medium", "long"]
LENGTHS: tuple[Length, ...] = get_args(Length)
# What a section is: each page; a chapter, which may stand under the document's title in the
# outline; or what the outline's top level has, where only the whole is wanted.
Sections = Literal["whole", "chapter", "page"]

SENTENCES: dict[Length, int] = {"short": 2, "medium": 4, "long": 8}
_PART_SENTENCES = 2
TOKENS_PER_SENTENCE = 40
_SHORT_SENTENCE = 15
# Small models fall into loops when they write greedily for long; this much keeps them out of it.
REPETITION_PENALTY = 1.15


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Pages that belong together: title, places of the first and one past the last page."""

    title: str
    first: int
    end: int


class Summariser:
    """Summarises one document.

    Args:
        model: What reads and writes.
        document: What is summarised.
        length: How long the summary, and each section's, shall be.
        by: What the sections are.
        on_part: Called after every piece of text that was summarised, with how many are done and
            how many there will be as far as is known.
    """

    def __init__(
        self,
        model: "LanguageModel",
        document: Document,
        *,
        length: Length = "medium",
        by: Sections = "chapter",
        on_part: Callable[[int, int], None] | None = None,
    ) -> None:
        self._model = model
        self._document = document
        self._sentences = SENTENCES[length]
        self._by = by
        self._on_part = on_part
        self._cut = 0
        self._rounds = 0
        self._stretches = self._pages() if by == "page" else self._plan()
        # Filled along the stretches, one passage after the other.
        self._parts: list[list[str]] = []
        # For every part the places of the pages that its passages are from.
        self._places: list[list[list[int]]] = []
        by_page: dict[int, list[Span]] = {}
        for span in cut_passages(document):
            by_page.setdefault(span.page, []).append(span)
        self._unread = {page: len(spans) for page, spans in by_page.items()}
        for stretch in self._stretches:
            spans = [
                span for page in range(stretch.first, stretch.end) for span in by_page.get(page, ())
            ]
            texts = [document.pages[span.page].text[span.start : span.end] for span in spans]
            pieces = list(self._fill(texts))
            self._parts.append(["\n\n".join(piece) for piece in pieces])
            waiting = iter(spans)
            self._places.append([[next(waiting).page for _ in piece] for piece in pieces])
        self._done, self._total = 0, self.parts

    @property
    def parts(self) -> int:
        """Window-sized parts that the document is read in."""
        return sum(map(len, self._parts))

    @property
    def titles(self) -> tuple[str, ...]:
        """What the sections are called."""
        return tuple(stretch.title for stretch in self._stretches)

    @property
    def tokens(self) -> int:
        """Tokens of the document's text, prompts left out."""
        encode = self._model.tokenizer.encode
        return sum(len(encode(part)) for parts in self._parts for part in parts)

    @property
    def coverage(self) -> Coverage:
        """How much of the document has been read so far."""
        pages = self._document.pages
        left = sum(count > 0 for count in self._unread.values())
        return Coverage(
            pages=len(pages),
            read=len(pages) - left,
            without_text=tuple(
                page.number for i, page in enumerate(pages) if i not in self._unread
            ),
            parts=self.parts,
        )

    def sections(self) -> Iterator[Section]:
        """Summarise section after section; one at a time, so that each can be shown at once."""
        for stretch, parts, places in zip(self._stretches, self._parts, self._places, strict=True):
            pages = self._document.pages[stretch.first : stretch.end]
            # A part that stands alone is merged with nothing: its summary is the section's.
            sentences = self._sentences if len(parts) == 1 else _PART_SENTENCES
            summaries = []
            verbatim = self._by == "page" and len(parts) == 1 and self._is_short(parts[0])
            for part, inside in zip(parts, places, strict=True):
                text = self._as_it_is(part) if verbatim else None
                summaries.append(text or self._summarise(part, sentences=sentences))
                for page in inside:
                    self._unread[page] -= 1
            yield Section(
                title=stretch.title,
                first_page=pages[0].number,
                last_page=pages[-1].number,
                summary=self._merge(summaries, sentences=self._sentences) if summaries else "",
                parts=len(parts),
                verbatim=verbatim,
            )

    def whole(self, sections: Sequence[Section]) -> Summary:
        """Summarise the sections' summaries into one."""
        summaries = [s.summary for s in sections if s.summary]
        text = self._merge(summaries, sentences=self._sentences) if summaries else ""
        warnings = []
        if self._cut:
            warnings.append(f"{self._cut} partial summaries were cut at their longest length")
        return Summary(
            summary=text,
            sections=tuple(sections),
            pages=len(self._document.pages),
            coverage=self.coverage,
            rounds=self._rounds,
            warnings=tuple(warnings),
        )

    def _pages(self) -> list[_Stretch]:
        """Make every page a stretch."""
        unit = self._document.unit
        return [
            _Stretch(page.label if unit == "section" and page.label else f"{unit} {page.number}",
                     i, i + 1)
            for i, page in enumerate(self._document.pages)
        ]  # fmt: skip

    def _plan(self) -> list[_Stretch]:
        """Divide the pages along the outline, else take them all as one stretch."""
        pages, number = self._document.pages, self._document.unit
        place = {page.number: i for i, page in reversed(list(enumerate(pages)))}
        entries = [entry for entry in self._document.outline if entry.page in place]
        levels = sorted({entry.level for entry in entries})
        # Only for chapters go below a heading over all others, which is the document's title.
        for level in levels if self._by == "chapter" else levels[:1]:
            starts: dict[int, str] = {}
            for entry in entries:
                if entry.level == level:
                    at = place[entry.page]
                    # Several entries on one page: one stretch, under all their titles.
                    starts[at] = f"{starts[at]}; {entry.title}" if at in starts else entry.title
            if len(starts) >= 2:
                break
        else:
            first, last = pages[0].number, pages[-1].number
            title = f"{number} {first}" if first == last else f"{number}s {first}-{last}"
            return [_Stretch(title, 0, len(pages))]
        if 0 not in starts:
            titles = (entry.title for entry in entries if place[entry.page] == 0)
            starts[0] = next(titles, "(before the first heading)")
        edges = [*sorted(starts), len(pages)]
        return [_Stretch(starts[a], a, b) for a, b in pairwise(edges)]

    def _fill(self, texts: Sequence[str]) -> Iterator[list[str]]:
        """Put texts together to pieces that fit the window with their prompt and summary."""
        tokenizer = self._model.tokenizer
        prompt = len(prompts.summary_prompt(tokenizer, "", sentences=self._sentences))
        room = self._model.cca.window - prompt - self._sentences * TOKENS_PER_SENTENCE
        piece: list[str] = []
        used = 0
        for text in texts:
            # Two more for the empty line that joins them.
            tokens = len(tokenizer.encode(text)) + 2
            if piece and used + tokens > room:
                yield piece
                piece, used = [], 0
            piece.append(text)
            used += tokens
        if piece:
            yield piece

    def _merge(self, summaries: Sequence[str], *, sentences: int) -> str:
        """Summarise summaries until one is left."""
        rounds = 0
        while len(summaries) > 1:
            pieces = ["\n\n".join(piece) for piece in self._fill(summaries)]
            if len(pieces) == len(summaries):
                # Each fills a window alone: join pairs, so that the rounds come to an end.
                pieces = ["\n\n".join(summaries[i : i + 2]) for i in range(0, len(summaries), 2)]
            self._total += len(pieces)
            rounds += 1
            summaries = [self._summarise(piece, sentences=sentences) for piece in pieces]
        self._rounds = max(self._rounds, rounds)
        return summaries[0]

    def _is_short(self, text: str) -> bool:
        """Say whether a summary would be as long: of a few words, a model invents the rest."""
        return len(self._model.tokenizer.encode(text)) <= self._sentences * _SHORT_SENTENCE

    def _as_it_is(self, text: str) -> str:
        """Give a text in place of its summary."""
        self._count_part()
        return " ".join(text.split())

    def _summarise(self, text: str, *, sentences: int) -> str:
        """Summarise one piece of text that fits the window."""
        ids = prompts.summary_prompt(self._model.tokenizer, text, sentences=sentences)
        most = sentences * TOKENS_PER_SENTENCE
        generation = self._model.generate(
            self._model.new_memory(len(ids) + most), ids, max_new_tokens=most,
            repetition_penalty=REPETITION_PENALTY,
        )  # fmt: skip
        summary = generation.text().strip()
        if generation.finish == "length":
            self._cut += 1
            summary = _whole_sentences(summary)
        self._count_part()
        return summary

    def _count_part(self) -> None:
        self._done += 1
        if self._on_part is not None:
            self._on_part(self._done, max(self._total, self._done))


def _whole_sentences(text: str) -> str:
    """Leave out a last sentence that was cut, if another stands before it."""
    end = max(text.rfind(mark) for mark in (". ", "! ", "? ", ".\n"))
    return text[: end + 1] if end > 0 else text
