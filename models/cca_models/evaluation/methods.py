"""The ways to read a context: a registry by name.

All of them are a reader over the same passages, tokens and prompts; they differ in what is
remembered of the context and in how the answer is written from it:

full     dense attention: the same engine, weights and positions with a window that holds everything
core     CCA, the question attends straight to the memory
focus    CCA locates passages, which are read again
lexical  BM25 locates passages; nothing is remembered
window   CCA without its core tokens

Every attention of cca_models.peers is a method of its own name, too: the context is read with it,
and the question goes on from what it keeps. `register` adds another: anything that makes a Method
of a Workshop.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_models.attention_names import PEERS
from cca_models.evaluation.contexts import Context, PassageReader, TextCache
from cca_models.evaluation.sliding import SlidingDecoder
from cca_models.evaluation.types import By, EvaluationError, Method, Reply
from cca_models.peers import peer_model
from cca_models.reading.types import ReadMode, Writing

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel
    from cca_models.memory import Memory

# Rows of logits at once: [rows, V] in float32.
_LOGIT_ROWS = {"cpu": 256, "cuda": 2048}


class Workshop:
    """A model, and what its methods share: tokens of passages, the last context, its memory.

    Args:
        model: Everything is read with its weights.
    """

    def __init__(self, model: "LanguageModel") -> None:
        self.model = model
        self.texts = TextCache(model.tokenizer)
        self._context: Context | None = None
        self._memory: tuple[object, Memory] | None = None

    def context(self, passages: Sequence[str]) -> Context:
        """Give a context; the last one is kept."""
        stripped = tuple(passage.strip() for passage in passages)
        if self._context is None or self._context.passages != stripped:
            self._memory = None
            self._context = Context(stripped, self.texts)
        return self._context

    def memory(self, model: "LanguageModel", context: Context, capacity: int) -> "Memory":
        """Read a context; the last memory is kept for methods that remember alike."""
        known = (model.cca, model.decoder, capacity)
        if self._memory is None or self._memory[0] != known:
            # First let go of the other: two may not fit.
            self._memory = None
            memory = model.new_memory(capacity)
            model.prefill(memory, context.ids)
            self._memory = (known, memory)
        return self._memory[1]


class ReaderMethod:
    """A method of this package's own readers.

    Attributes:
        name: As the user names it.
        model: What locates and reads passages.
        reads: How answers are written: "core" from all that is remembered, "focus" and "lexical"
            from passages that are found and read.
        longest: Tokens of the longest prompt that it is meant for.

    Args:
        name: As the user names it.
        workshop: What is shared with other methods.
        reads: How answers are written.
        remember: Gives the model that remembers so many tokens as this method does; the
            workshop's own model if None.
    """

    def __init__(
        self,
        name: str,
        workshop: Workshop,
        *,
        reads: ReadMode,
        remember: "Callable[[int], LanguageModel] | None" = None,
    ) -> None:
        self.name = name
        self.model = workshop.model
        self.reads: ReadMode = reads
        self._trained = trained_tokens(workshop.model)
        self.longest = self._trained if name == "full" else workshop.model.max_tokens
        self._workshop, self._remember = workshop, remember

    def model_for(self, tokens: int) -> "LanguageModel":
        """Give the model that remembers so many tokens the way that this method does."""
        return self.model if self._remember is None else self._remember(tokens)

    def read(self, passages: Sequence[str], *, room: int = 512) -> "ReaderReading":
        """Read a context; as Method.read."""
        context = self._workshop.context(passages)
        capacity = len(context.ids) + room
        model = self.model_for(capacity)
        memory = None
        if self.reads != "lexical":
            memory = self._workshop.memory(model, context, capacity)
        return ReaderReading(PassageReader(model, context, memory), context, self.reads)

    def note(self, tokens: int) -> str:
        """Say that dense attention was never trained on so many tokens."""
        if self.name != "full" or tokens <= self._trained:
            return ""
        return (
            f"full beyond {self._trained:,} tokens: longer than all that these weights were "
            "trained on; positions by the same rule as core's"
        )


class ScoringReaderMethod(ReaderMethod):
    """A method that also has a probability for every token."""

    @torch.inference_mode()
    def losses(self, ids: Sequence[int]) -> Tensor:
        """Read tokens and say how unlikely each was; as ScoringMethod.losses."""
        if len(ids) < 2:
            raise ValueError(f"expected two tokens at least, got {len(ids)}")
        model = self.model_for(len(ids))
        decoder, memory = model.decoder, model.new_memory(len(ids))
        whole = torch.tensor([list(ids)], device=decoder.device)
        rows = _LOGIT_ROWS.get(decoder.device.type, 256)
        losses = []
        for start in range(0, len(ids) - 1, decoder.chunk):
            part = whole[:, start : min(start + decoder.chunk, len(ids) - 1)]
            states = decoder.forward(part, memory.layers, memory.rotary, every=True)
            targets = whole[0, start + 1 : start + 1 + part.shape[1]]
            for a in range(0, part.shape[1], rows):
                logits = decoder.logits(states[:, a : a + rows])[0]
                losses.append(F.cross_entropy(logits, targets[a : a + rows], reduction="none"))
        return torch.cat(losses).float().cpu()


class ReaderReading:
    """A context that a ReaderMethod has read."""

    def __init__(self, reader: PassageReader, context: Context, read: ReadMode) -> None:
        self._reader, self._context, self._read = reader, context, read

    @property
    def tokens(self) -> int:
        """Tokens of the context, the prompt's beginning included."""
        return len(self._context.ids)

    def ask(self, question: str, *, max_new_tokens: int = 32) -> Reply:
        """Answer a question about the context."""
        writing = Writing(max_new_tokens=max_new_tokens)
        answer = self._reader.ask(question, read=self._read, writing=writing).finished()
        return Reply(text=answer.answer, found=answer.found)

    def rank(self, question: str, *, by: By) -> list[int]:
        """Order the passages, best first; as Reading.rank."""
        reader = self._reader
        if by == "bm25":
            order = reader.rank(question, attention=False)
        elif (votes := reader.passage_votes(question)) is None:
            return []
        elif by == "fused":
            order = reader.rank(question, attention=True)
        else:
            order = sorted(range(len(votes)), key=lambda i: -votes[i])
        return list(dict.fromkeys(reader.passages[i].page for i in order))


def _full(workshop: Workshop) -> Method:
    """Dense attention: a window that holds everything never folds anything."""
    models: dict[int, LanguageModel] = {}

    def remember(tokens: int) -> "LanguageModel":
        # Powers of two: whatever is compiled for a window serves all lengths up to it.
        window = 1 << max(10, (tokens - 1).bit_length())
        if window not in models:
            model = copy.copy(workshop.model)
            model.cca = replace(model.cca, window=max(window, model.cca.window))
            models[window] = model
        return models[window]

    return ScoringReaderMethod("full", workshop, reads="core", remember=remember)


def _window(workshop: Workshop) -> Method:
    model = copy.copy(workshop.model)
    model.decoder = SlidingDecoder(model.checkpoint.config, model.decoder.weights)
    return ScoringReaderMethod("window", workshop, reads="core", remember=lambda _: model)


def _core(workshop: Workshop) -> Method:
    return ScoringReaderMethod("core", workshop, reads="core")


def _focus(workshop: Workshop) -> Method:
    return ReaderMethod("focus", workshop, reads="focus")


def _lexical(workshop: Workshop) -> Method:
    return ReaderMethod("lexical", workshop, reads="lexical")


def _peer(workshop: Workshop, *, name: str) -> Method:
    model = peer_model(workshop.model, name)
    return ScoringReaderMethod(name, workshop, reads="core", remember=lambda _: model)


def trained_tokens(model: "LanguageModel") -> int:
    """Give the longest text that a model's weights were trained on, its adapter's included."""
    return model.adapted_tokens or model.checkpoint.trained_tokens


_FACTORIES: dict[str, Callable[[Workshop], Method]] = {
    "focus": _focus,
    "core": _core,
    "full": _full,
    "lexical": _lexical,
    "window": _window,
}


_FACTORIES |= {name: partial(_peer, name=name) for name in PEERS}

# Those that have a probability for every token.
_SCORING = {"core", "full", "window", *PEERS}


def register(name: str, factory: Callable[[Workshop], Method], *, scoring: bool = False) -> None:
    """Add a method under a new name.

    Args:
        name: As the user will name it.
        factory: Makes it.
        scoring: Whether it is a ScoringMethod.

    Raises:
        ValueError: If the name is taken.
    """
    if name in _FACTORIES:
        raise ValueError(f"expected a new name, got {name!r}")
    _FACTORIES[name] = factory
    if scoring:
        _SCORING.add(name)


def is_scoring(name: str) -> bool:
    """Say whether a method has a probability for every token."""
    return name in _SCORING


def method_names() -> tuple[str, ...]:
    """Give the names of all methods."""
    return tuple(_FACTORIES)


def make_methods(model: "LanguageModel", names: Sequence[str]) -> dict[str, Method]:
    """Make methods that share what they can.

    Raises:
        EvaluationError: If a name is unknown.
    """
    workshop = Workshop(model)
    for name in names:
        if name not in _FACTORIES:
            raise EvaluationError(
                f"method {name!r} is unknown", hint=f"--method {','.join(_FACTORIES)}"
            )
    return {name: _FACTORIES[name](workshop) for name in names}
