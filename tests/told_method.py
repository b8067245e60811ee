"""Methods for the tests of evaluation: one that knows the answers, one that shows its prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reading_helpers import ToldModel

from cca_models.evaluation.types import By, Reply


@dataclass
class ToldReading:
    """A context that answers what it was told to, and ranks passages by words in common."""

    passages: tuple[str, ...]
    says: Callable[[str], str]
    asked: list[str]

    @property
    def tokens(self) -> int:
        """Words, for want of a tokenizer."""
        return sum(len(passage.split()) for passage in self.passages)

    def ask(self, question: str, *, max_new_tokens: int = 32) -> Reply:
        """Say it; an empty answer means that it was not found."""
        self.asked.append(question)
        text = self.says(question)
        return Reply(text=text or "Not found in the document.", found=bool(text))

    def rank(self, question: str, *, by: By) -> list[int]:
        """Order by words in common."""
        words = set(question.split())
        shared = [len(words & set(passage.split())) for passage in self.passages]
        return sorted(range(len(shared)), key=lambda i: -shared[i])


@dataclass
class ToldMethod:
    """A method without a model: everything is a question to it."""

    says: Callable[[str], str]
    name: str = "told"
    asked: list[str] = field(default_factory=list)
    contexts: list[tuple[str, ...]] = field(default_factory=list)

    def read(self, passages: Sequence[str], *, room: int = 512) -> ToldReading:
        """Record the context."""
        self.contexts.append(tuple(passages))
        return ToldReading(tuple(passages), self.says, self.asked)

    def note(self, tokens: int) -> str:
        """Nothing to be known."""
        return ""


@dataclass
class ToldModelMethod(ToldMethod):
    """A method with a model, whose prompts are recorded."""

    model: Any = None
    reads: str = "core"
    longest: int = 100_000

    def model_for(self, tokens: int) -> ToldModel:
        """Give the one model there is."""
        assert isinstance(self.model, ToldModel)
        return self.model

    @property
    def prompts(self) -> list[str]:
        """What the model was given to read, as text."""
        return [self.model.tokenizer.decode(ids) for ids in self.model.prompts]
