"""An answer being written: from passages, or straight from the memory, with what it rests on."""

import time
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from cca_models.reading import prompts
from cca_models.reading.apart import read_apart
from cca_models.reading.evidence import find_citations, is_denial
from cca_models.reading.passages import Span
from cca_models.reading.refusing import opening, threshold_of
from cca_models.reading.types import NOT_FOUND, Answer, Citation, ReadMode, Turn, Writing

if TYPE_CHECKING:
    from cca_models.generation import Generation
    from cca_models.memory import Memory
    from cca_models.reading.reader import Reader

# For checkpoints that were not taught to say so themselves: below this share of the question's
# information in the passages read, the document does not say. On training questions this refuses
# 5 % of the answerable ones and 62 % of those asked of the wrong document (docs/method.md).
COVERAGE = 0.45


class AnswerStream:
    """An answer being written. Iterate over it for text; the attributes hold at the end.

    Attributes:
        reader: What is asked.
        question: As asked.
        read: The way it is read.
        history: What was asked before.
        answer: The answer with its evidence.
        passages: What it was written from, or for "core" what its words were looked for in, best
            first.
    """

    def __init__(
        self,
        reader: "Reader",
        question: str,
        read: ReadMode,
        writing: Writing,
        history: Sequence[Turn] = (),
    ) -> None:
        self.reader, self.question, self.history = reader, question, history
        self.read, self._writing = read, writing
        self.passages: list[Span] = []
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
        if self.read == "core":
            yield from self._from_memory(start)
        else:
            yield from self._from_passages(start)

    def _from_passages(self, start: float) -> Iterator[str]:
        """Find passages, read them in full, write the answer from them."""
        reader, writing = self.reader, self._writing
        order = reader.rank(self.question, attention=self.read == "focus", history=self.history)
        chosen = reader.choose(order, self.question, writing, self.history)
        self.passages = [reader.passages[i] for i in chosen]
        taught = threshold_of(reader.model, self.read) is not None
        coverage = 1.0 if taught else reader.index.coverage(self.question, chosen)
        self._timing["locate"] = time.perf_counter() - start
        if not chosen or coverage < COVERAGE:
            yield NOT_FOUND
            self._finish = "stop"
            self._close(NOT_FOUND, (), found=False)
            return
        if taught:
            # What was taught to refuse can say which of the passages knows.
            read = read_apart(
                reader, chosen, self.question, self.history, room=writing.max_new_tokens
            )
            self.passages = [reader.passages[one.passage] for one in read[:1]]
            self._usage["prompt_tokens"] = sum(one.tokens for one in read)
            memory, ids = read[0].memory, [read[0].last]
        else:
            ids = prompts.passage_prompt(
                reader.model.tokenizer, reader.texts(chosen), self.question, self.history
            )
            memory = reader.model.new_memory(len(ids) + writing.max_new_tokens)
            self._usage["prompt_tokens"] = len(ids)
        text = yield from self._write(memory, ids, start)
        self._conclude(text)

    def _from_memory(self, start: float) -> Iterator[str]:
        """Let the question attend straight to the memory; look for the evidence afterwards."""
        reader = self.reader
        (memory,) = reader.memories
        ids = prompts.question_suffix(reader.model.tokenizer, self.question, self.history)
        self._usage["prompt_tokens"] = memory.seen + len(ids)
        self._usage["cached_tokens"] = memory.seen
        if not reader.model.checkpoint.adapted:
            self._warnings.append(
                f"{reader.model.checkpoint.name} is not adapted to core tokens: answers of "
                "--read core are a test of the method, not to be relied on"
            )
        text = yield from self._write(memory.fork(), ids, start)
        order = reader.rank(f"{self.question} {text}", attention=False)
        self.passages = [reader.passages[i] for i in order[: self._writing.passages]]
        self._conclude(text)

    def _write(self, memory: "Memory", ids: list[int], start: float) -> Generator[str, None, str]:
        """Stream the model's answer; returns the whole text."""
        writing = self._writing
        generation: Generation = self.reader.model.generate(
            memory, ids, max_new_tokens=writing.max_new_tokens, temperature=writing.temperature,
            top_p=writing.top_p, seed=writing.seed,
            stop=("\n\n", "\nQuestion:"), opening=opening(self.reader.model, self.read),
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

    def _conclude(self, text: str) -> None:
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
        citations = find_citations(self.reader.documents, self.passages, self.question, text)
        supported = any(c.supports for c in citations)
        if not supported:
            self._warnings.append(
                "the answer's words are not in the passages that were read: check it"
            )
        self._close(text, citations, found=True if supported else None)

    def _close(self, text: str, citations: tuple[Citation, ...], *, found: bool | None) -> None:
        self.answer = Answer(
            question=self.question,
            answer=text,
            found=found,
            citations=citations,
            read=self.read,
            usage=self._usage,
            timing_s=self._timing,
            finish=self._finish,
            warnings=tuple(self._warnings),
        )
