"""A context: passages with an empty line between them, behind the prompt's beginning."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from cca_models.documents import Document
from cca_models.reading import prompts
from cca_models.reading.lexical import LexicalIndex
from cca_models.reading.passages import PASSAGE_CHARACTERS, Span, cut_passages
from cca_models.reading.reader import Reader

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel
    from cca_models.memory import Memory
    from cca_models.tokenizer import Tokenizer

JOIN = "\n\n"
_PAGE_CHARACTERS = 2000
_BREAKS = ("\n\n", "\n", ". ", " ")


class TextCache:
    """The tokens of passages; every text is cut into tokens once.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    @cached_property
    def prefix(self) -> list[int]:
        """The tokens before every context."""
        return prompts.document_prefix(self.tokenizer)

    @cached_property
    def join(self) -> int:
        """Tokens of the empty line before a passage."""
        return len(self.tokenizer.encode(JOIN + "A")) - len(self.tokenizer.encode("A"))

    def passage(self, text: str) -> list[int]:
        """Give a passage's tokens, those of the empty line before it included.

        Cut together with what stands before it, not after: so the tokens of a whole context are
        those that the joined text has, wherever the tokenizer starts a new word after a line's end.
        """
        if text not in self._known:
            self._known[text] = self.tokenizer.encode(JOIN + text)
        return self._known[text]

    def first(self, text: str) -> list[int]:
        """Give the tokens of a context's first passage."""
        return self.tokenizer.encode(text)

    def room(self, questions: Sequence[str], max_new_tokens: int) -> int:
        """Count the most tokens that one of the questions takes, its answer included."""
        suffix = len(prompts.question_suffix(self.tokenizer, ""))
        longest = max((len(self.tokenizer.encode(f" {q}")) for q in set(questions)), default=0)
        # One or two tokens more where the question meets the words before it.
        return suffix + longest + max_new_tokens + 2


class Context:
    """Passages, cut into tokens.

    Attributes:
        passages: As given, without white space around them.
        ids: Tokens of the prompt's beginning and of all passages.
        spans: First token, and one past the last, of each passage in `ids`.
    """

    def __init__(self, passages: Sequence[str], texts: TextCache) -> None:
        self.passages = tuple(passage.strip() for passage in passages)
        self.ids = list(texts.prefix)
        self.spans: list[tuple[int, int]] = []
        for place, passage in enumerate(self.passages):
            tokens = texts.passage(passage) if place else texts.first(passage)
            start = len(self.ids) + (min(texts.join, len(tokens) - 1) if place else 0)
            self.ids += tokens
            self.spans.append((start, len(self.ids)))

    @cached_property
    def document(self) -> Document:
        """The passages as the pages of a document."""
        return Document.of_texts(self.passages)

    @cached_property
    def cuts(self) -> list[Span]:
        """What a reader finds and quotes: the passages; those too long for that are cut."""
        longest = 2 * PASSAGE_CHARACTERS
        pages = self.document.pages
        if all(len(page.text) <= longest for page in pages):
            return [Span(place, 0, len(page.text)) for place, page in enumerate(pages)]
        by_page: dict[int, list[Span]] = {}
        for span in cut_passages(self.document):
            by_page.setdefault(span.page, []).append(span)
        spans = []
        for place, page in enumerate(pages):
            whole = [Span(place, 0, len(page.text))]
            spans += whole if len(page.text) <= longest else by_page.get(place, whole)
        return spans

    @cached_property
    def index(self) -> LexicalIndex:
        """BM25 over what can be found."""
        pages = self.document.pages
        return LexicalIndex([pages[s.page].text[s.start : s.end] for s in self.cuts])


class PassageReader(Reader):
    """A reader over a context, which shares with others what is made of its text alone.

    Args:
        model: What reads and writes.
        context: What is read.
        memory: Its memory; None where none is needed.
    """

    def __init__(
        self, model: "LanguageModel", context: Context, memory: "Memory | None" = None
    ) -> None:
        super().__init__(model, context.document, memory=memory, page_spans=context.spans)
        self._context = context

    @cached_property
    def passages(self) -> list[Span]:
        """The passages, in reading order."""
        return self._context.cuts

    @cached_property
    def index(self) -> LexicalIndex:
        """BM25 over the passages."""
        return self._context.index


def cut_pages(text: str, *, characters: int = _PAGE_CHARACTERS) -> list[str]:
    """Cut a long text into pages at empty lines, or where there are none, at the next best place.

    The pages joined by empty lines are the text, but for white space where it was cut.
    """
    pages, start = [], 0
    while start < len(text):
        end = _cut(text, start, start + characters)
        if page := text[start:end].strip():
            pages.append(page)
        start = end
    return pages


def _cut(text: str, start: int, end: int) -> int:
    """Find the last good place to cut in the second half of a stretch."""
    if end >= len(text):
        return len(text)
    middle = (start + end) // 2
    for mark in _BREAKS:
        place = text.rfind(mark, middle, end)
        if place >= 0:
            return place + len(mark)
    return end
