"""The reader: documents with their memories, the passages a question leads to, the answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from cca_models.documents import Document
from cca_models.reading import locate, prompts
from cca_models.reading.answering import AnswerStream
from cca_models.reading.lexical import LexicalIndex
from cca_models.reading.passages import Span, cut_passages
from cca_models.reading.types import READ_MODES, ReadMode, Turn, Writing

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel
    from cca_models.memory import Memory

# Rank fusion: 1 / (k + rank) per list. Attention counts half of BM25 where no adapter says
# otherwise; docs/method.md has the recall that this is taken from.
_FUSION_K = 10
_ATTENTION_WEIGHT = 0.5
# What the words of the question before count, beside 1 for those of the question.
_EARLIER_WEIGHT = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One of the documents that are read together.

    Attributes:
        document: What is read.
        memory: The memory of prefix and document; needed for "focus" and "core".
        page_spans: First token, and one past the last, of each page in the memory.
    """

    document: Document
    memory: "Memory | None" = None
    page_spans: Sequence[tuple[int, int]] = ()


class Reader:
    """Answers questions over one document; `Reader.over` makes one for several.

    Args:
        model: What reads and writes.
        document: What is read.
        memory: The memory of prefix and document; needed for "focus" and "core".
        page_spans: First token, and one past the last, of each page in the memory.

    Attributes:
        model: What reads and writes.
        sources: What is read, in the order given.
    """

    def __init__(
        self,
        model: "LanguageModel",
        document: Document,
        *,
        memory: "Memory | None" = None,
        page_spans: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.model = model
        self.sources: tuple[Source, ...] = (
            Source(document=document, memory=memory, page_spans=page_spans),
        )

    @classmethod
    def over(cls, model: "LanguageModel", sources: Sequence[Source]) -> "Reader":
        """Make a reader of several documents: each keeps its memory, its pages and its name.

        Raises:
            ValueError: If there is none.
        """
        if not sources:
            raise ValueError("expected a document, got none")
        first = sources[0]
        reader = cls(model, first.document, memory=first.memory, page_spans=first.page_spans)
        reader.sources = tuple(sources)
        return reader

    @property
    def documents(self) -> tuple[Document, ...]:
        """What is read."""
        return tuple(source.document for source in self.sources)

    @cached_property
    def memories(self) -> "tuple[Memory, ...]":
        """The memories of all documents; empty if one of them has none."""
        found = tuple(source.memory for source in self.sources if source.memory is not None)
        return found if len(found) == len(self.sources) else ()

    @cached_property
    def passages(self) -> list[Span]:
        """The documents' passages, in reading order."""
        return [p for i, one in enumerate(self.documents) for p in cut_passages(one, doc=i)]

    @cached_property
    def index(self) -> LexicalIndex:
        """BM25 over the passages."""
        return LexicalIndex([self._text(p) for p in self.passages])

    def ask(
        self,
        question: str,
        *,
        read: ReadMode = "focus",
        writing: Writing | None = None,
        history: Sequence[Turn] = (),
    ) -> AnswerStream:
        """Answer a question; iterate over the result for text, then take its `answer`.

        Args:
            question: What is asked.
            read: How the answer is found.
            writing: How it is written.
            history: What was asked before, if this question follows from it; earliest first.

        Raises:
            ValueError: If the question is empty, the mode unknown, or a memory is needed; or if
                "core", which answers from one memory, has several documents.
        """
        if not question.strip():
            raise ValueError("expected a question, got nothing")
        if read not in READ_MODES:
            raise ValueError(f"expected one of {', '.join(READ_MODES)}, got {read!r}")
        if read != "lexical" and not self.memories:
            raise ValueError(f"reading by {read!r} needs a memory of the document")
        if read == "core" and len(self.sources) > 1:
            raise ValueError("reading by 'core' takes one document, got several")
        return AnswerStream(self, question.strip(), read, writing or Writing(), tuple(history))

    def rank(self, question: str, *, attention: bool, history: Sequence[Turn] = ()) -> list[int]:
        """Order the passages, best first: by BM25, or fused with the question's attention.

        A question that follows from others is looked for with the last one's words as well, which
        count half.
        """
        lexical = self.index.scores(question)
        votes = self.passage_votes(question, history) if attention else None
        fused = [1 / (_FUSION_K + r) if s > 0 else 0.0 for s, r in _with_ranks(lexical)]
        if history:
            earlier = self.index.scores(f"{history[-1].question} {history[-1].answer}")
            for i, (score, r) in enumerate(_with_ranks(earlier)):
                fused[i] += _EARLIER_WEIGHT / (_FUSION_K + r) if score > 0 else 0.0
        if votes is not None:
            weight = locate.attention_weight(self.model, otherwise=_ATTENTION_WEIGHT)
            for i, (_, r) in enumerate(_with_ranks(votes)):
                fused[i] += weight / (_FUSION_K + r)
        return sorted(range(len(fused)), key=lambda i: -fused[i])

    def passage_votes(self, question: str, history: Sequence[Turn] = ()) -> list[float] | None:
        """Sum the attention that each passage drew; None if no head is known to locate."""
        heads = locate.locating_heads(self.model)
        if not heads or not self.memories:
            return None
        drawn = locate.token_votes(self.model, self.memories, question, heads, history)
        sums = [one.double().cumsum(0).tolist() for one in drawn]
        votes = []
        for passage in self.passages:
            a, b = self.tokens_of(passage)
            reached = sums[passage.doc]
            b = min(b, len(reached))
            votes.append(reached[b - 1] - (reached[a - 1] if a else 0.0))
        return votes

    def tokens_of(self, span: Span) -> tuple[int, int]:
        """Give a span's first token, and one past its last, in its document's memory.

        Tokens are spread evenly over the page's characters: off by a few at most, and a group of
        16 is no sharper.
        """
        source = self.sources[span.doc]
        first, end = source.page_spans[span.page]
        length = max(1, len(source.document.pages[span.page].text))
        a = first + round((end - first) * span.start / length)
        return a, max(a + 1, first + round((end - first) * span.end / length))

    def choose(
        self,
        order: Sequence[int],
        question: str,
        writing: Writing,
        history: Sequence[Turn] = (),
    ) -> list[int]:
        """Take the best passages that fit the window together with question and answer."""
        tokenizer = self.model.tokenizer
        room = self.model.cca.window - writing.max_new_tokens
        room -= len(prompts.passage_prompt(tokenizer, [], question, history))
        chosen: list[int] = []
        for i in order[: writing.passages]:
            # Two more for the empty line between passages.
            span = self.passages[i]
            room -= len(tokenizer.encode(self._headed(span, self._text(span)))) + 2
            if room < 0 and chosen:
                break
            chosen.append(i)
        return chosen

    def _text(self, span: Span) -> str:
        return self.documents[span.doc].pages[span.page].text[span.start : span.end]

    def _headed(self, span: Span, text: str) -> str:
        """Put the document's name above its text, where there are several."""
        return f"{self.documents[span.doc].name}:\n{text}" if len(self.sources) > 1 else text

    def texts(self, chosen: Sequence[int]) -> list[str]:
        """Give the chosen passages' text in reading order, neighbours joined."""
        spans: list[Span] = []
        for i in sorted(chosen):
            span = self.passages[i]
            here = (span.doc, span.page)
            if spans and (spans[-1].doc, spans[-1].page) == here and i - 1 in chosen:
                spans[-1] = replace(spans[-1], end=span.end)
            else:
                spans.append(span)
        return [self._headed(span, " ".join(self._text(span).split())) for span in spans]


def _with_ranks(scores: Sequence[float]) -> list[tuple[float, int]]:
    """Pair each score with its rank, 0 for the best; equal scores share a rank."""
    first: dict[float, int] = {}
    for rank, score in enumerate(sorted(scores, reverse=True)):
        first.setdefault(score, rank)
    ranks = [first[score] for score in scores]
    return list(zip(scores, ranks, strict=True))
