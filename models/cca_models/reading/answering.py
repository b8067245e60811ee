"""Answering a question over a document: locate, read, write, and say what it rests on."""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cca_models.documents import Document
from cca_models.reading import locate, prompts
from cca_models.reading.evidence import find_citations, is_denial
from cca_models.reading.lexical import LexicalIndex
from cca_models.reading.passages import Span, cut_passages
from cca_models.reading.refusing import opening, threshold_of
from cca_models.reading.types import NOT_FOUND, READ_MODES, Answer, Citation, ReadMode

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel
    from cca_models.generation import Generation
    from cca_models.memory import Memory

# Rank fusion: 1 / (k + rank) per list. Attention counts half of BM25 where no adapter says
# otherwise; docs/method.md has the recall that this is taken from.
_FUSION_K = 10
_ATTENTION_WEIGHT = 0.5
# For checkpoints that were not taught to say so themselves: below this share of the question's
# information in the passages read, the document does not say. On training questions this refuses
# 5 % of the answerable ones and 62 % of those asked of the wrong document (docs/method.md).
COVERAGE = 0.45


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


class Reader:
    """Answers questions over one document.

    Args:
        model: What reads and writes.
        document: What is read.
        memory: The memory of prefix and document; needed for "focus" and "core".
        page_spans: First token, and one past the last, of each page in the memory.
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
        self.document = document
        self.memory = memory
        self.page_spans = page_spans

    @cached_property
    def passages(self) -> list[Span]:
        """The document's passages, in reading order."""
        return cut_passages(self.document)

    @cached_property
    def index(self) -> LexicalIndex:
        """BM25 over the passages."""
        return LexicalIndex([self._text(p) for p in self.passages])

    def ask(
        self, question: str, *, read: ReadMode = "focus", writing: Writing | None = None
    ) -> "AnswerStream":
        """Answer a question; iterate over the result for text, then take its `answer`.

        Raises:
            ValueError: If the question is empty, the mode unknown, or a memory is needed.
        """
        if not question.strip():
            raise ValueError("expected a question, got nothing")
        if read not in READ_MODES:
            raise ValueError(f"expected one of {', '.join(READ_MODES)}, got {read!r}")
        if read != "lexical" and self.memory is None:
            raise ValueError(f"reading by {read!r} needs a memory of the document")
        return AnswerStream(self, question.strip(), read, writing or Writing())

    def rank(self, question: str, *, attention: bool) -> list[int]:
        """Order the passages, best first: by BM25, or fused with the question's attention."""
        lexical = self.index.scores(question)
        votes = self.passage_votes(question) if attention else None
        fused = [1 / (_FUSION_K + r) if s > 0 else 0.0 for s, r in _with_ranks(lexical)]
        if votes is not None:
            weight = locate.attention_weight(self.model, otherwise=_ATTENTION_WEIGHT)
            for i, (_, r) in enumerate(_with_ranks(votes)):
                fused[i] += weight / (_FUSION_K + r)
        return sorted(range(len(fused)), key=lambda i: -fused[i])

    def passage_votes(self, question: str) -> list[float] | None:
        """Sum the attention that each passage drew; None if no head is known to locate."""
        heads = locate.locating_heads(self.model)
        if not heads or self.memory is None:
            return None
        drawn = locate.token_votes(self.model, self.memory, question, heads)
        sums = drawn.double().cumsum(0).tolist()
        votes = []
        for passage in self.passages:
            # Tokens are spread evenly over the page's characters: off by a few at most, and a
            # group of 16 is no sharper.
            first, end = self.page_spans[passage.page]
            length = max(1, len(self.document.pages[passage.page].text))
            a = first + round((end - first) * passage.start / length)
            b = max(a + 1, first + round((end - first) * passage.end / length))
            b = min(b, len(sums))
            votes.append(sums[b - 1] - (sums[a - 1] if a else 0.0))
        return votes

    def choose(self, order: Sequence[int], question: str, writing: Writing) -> list[int]:
        """Take the best passages that fit the window together with question and answer."""
        tokenizer = self.model.tokenizer
        room = self.model.cca.window - writing.max_new_tokens
        room -= len(prompts.passage_prompt(tokenizer, [], question))
        chosen: list[int] = []
        for i in order[: writing.passages]:
            # Two more for the empty line between passages.
            room -= len(tokenizer.encode(self._text(self.passages[i]))) + 2
            if room < 0 and chosen:
                break
            chosen.append(i)
        return chosen

    def _text(self, span: Span) -> str:
        return self.document.pages[span.page].text[span.start : span.end]

    def texts(self, chosen: Sequence[int]) -> list[str]:
        """Give the chosen passages' text in reading order, neighbours joined."""
        spans: list[Span] = []
        for i in sorted(chosen):
            span = self.passages[i]
            if spans and spans[-1].page == span.page and i - 1 in chosen:
                spans[-1] = Span(span.page, spans[-1].start, span.end)
            else:
                spans.append(span)
        return [" ".join(self._text(span).split()) for span in spans]


def _with_ranks(scores: Sequence[float]) -> list[tuple[float, int]]:
    """Pair each score with its rank, 0 for the best; equal scores share a rank."""
    first: dict[float, int] = {}
    for rank, score in enumerate(sorted(scores, reverse=True)):
        first.setdefault(score, rank)
    ranks = [first[score] for score in scores]
    return list(zip(scores, ranks, strict=True))


class AnswerStream:
    """An answer being written. Iterate over it for text; `answer` is there at the end."""

    def __init__(self, reader: Reader, question: str, read: ReadMode, writing: Writing) -> None:
        self._reader, self._question = reader, question
        self._read, self._writing = read, writing
        self._timing: dict[str, float] = {}
        self._usage = {"prompt_tokens": 0, "cached_tokens": 0, "new_tokens": 0}
        self._warnings: list[str] = []
        self._finish: str | None = None
        self.answer: Answer | None = None

    def finished(self) -> Answer:
        """Write it all, if need be, and give the answer."""
        if self.answer is None:
            for _ in self:
                pass
        assert self.answer is not None
        return self.answer

    def __iter__(self) -> Iterator[str]:
        start = time.perf_counter()
        if self._read == "core":
            yield from self._from_memory(start)
        else:
            yield from self._from_passages(start)

    def _from_passages(self, start: float) -> Iterator[str]:
        """Find passages, read them in full, write the answer from them."""
        reader, writing = self._reader, self._writing
        order = reader.rank(self._question, attention=self._read == "focus")
        chosen = reader.choose(order, self._question, writing)
        taught = threshold_of(reader.model, self._read) is not None
        coverage = 1.0 if taught else reader.index.coverage(self._question, chosen)
        self._timing["locate"] = time.perf_counter() - start
        if coverage < COVERAGE:
            yield NOT_FOUND
            self._finish = "stop"
            self._close(NOT_FOUND, (), found=False)
            return
        ids = prompts.passage_prompt(reader.model.tokenizer, reader.texts(chosen), self._question)
        memory = reader.model.new_memory(len(ids) + writing.max_new_tokens)
        self._usage["prompt_tokens"] = len(ids)
        text = yield from self._write(memory, ids, start)
        self._conclude(text, [reader.passages[i] for i in chosen])

    def _from_memory(self, start: float) -> Iterator[str]:
        """Let the question attend straight to the memory; look for the evidence afterwards."""
        reader = self._reader
        assert reader.memory is not None
        ids = prompts.question_suffix(reader.model.tokenizer, self._question)
        self._usage["prompt_tokens"] = reader.memory.seen + len(ids)
        self._usage["cached_tokens"] = reader.memory.seen
        if not reader.model.checkpoint.adapted:
            self._warnings.append(
                f"{reader.model.checkpoint.name} is not adapted to core tokens: answers of "
                "--read core are a test of the method, not to be relied on"
            )
        text = yield from self._write(reader.memory.fork(), ids, start)
        order = reader.rank(f"{self._question} {text}", attention=False)
        best = [reader.passages[i] for i in order[: self._writing.passages]]
        self._conclude(text, best)

    def _write(self, memory: "Memory", ids: list[int], start: float) -> Generator[str, None, str]:
        """Stream the model's answer; returns the whole text."""
        writing = self._writing
        generation: Generation = self._reader.model.generate(
            memory, ids, max_new_tokens=writing.max_new_tokens, temperature=writing.temperature,
            top_p=writing.top_p, seed=writing.seed,
            stop=("\n\n", "\nQuestion:"), opening=opening(self._reader.model, self._read),
            stop_loops=True,
        )  # fmt: skip
        pieces: list[str] = []
        for piece in generation:
            if not pieces:
                piece = piece.lstrip()
                if not piece:
                    continue
                self._timing["first_token"] = time.perf_counter() - start
            pieces.append(piece)
            yield piece
        now = time.perf_counter() - start
        self._timing.setdefault("first_token", now)
        self._timing["decode"] = now - self._timing["first_token"]
        self._usage["new_tokens"] = len(generation.tokens)
        self._finish = generation.finish
        text = "".join(pieces).strip()
        if not text:
            # Silence is an answer too; whoever reads along must see it.
            yield NOT_FOUND
        return text

    def _conclude(self, text: str, passages: Sequence[Span]) -> None:
        """Decide whether the answer was found, and cite."""
        if self._finish == "length":
            self._warnings.append(
                f"the answer was cut at {self._writing.max_new_tokens} tokens; "
                "--max-new-tokens allows more"
            )
        if self._finish == "loop":
            self._warnings.append("the answer repeated itself and was cut: do not rely on it")
        if is_denial(text):
            self._close(text or NOT_FOUND, (), found=False)
            return
        citations = find_citations(self._reader.document, passages, self._question, text)
        supported = any(c.supports for c in citations)
        if not supported:
            self._warnings.append(
                "the answer's words are not in the passages that were read: check it"
            )
        self._close(text, citations, found=True if supported else None)

    def _close(self, text: str, citations: tuple[Citation, ...], *, found: bool | None) -> None:
        self.answer = Answer(
            question=self._question,
            answer=text,
            found=found,
            citations=citations,
            read=self._read,
            usage=self._usage,
            timing_s=self._timing,
            finish=self._finish,
            warnings=tuple(self._warnings),
        )
