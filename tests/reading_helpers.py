"""Documents made of strings, and a model that says what it was told to say."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cca_models.config import CCAConfig
from cca_models.documents import Document, OutlineEntry, Page
from cca_models.tokenizer import Tokenizer, load_tokenizer


def make_document(
    *texts: str, outline: Sequence[OutlineEntry] = (), labels: Sequence[str] | None = None
) -> Document:
    """Make a document of these pages."""
    return Document(
        name="book.pdf",
        path="/shelf/book.pdf",
        sha256="0" * 64,
        format="pdf",
        reader="test",
        unit="page",
        pages=tuple(
            Page(number=i + 1, label=labels[i] if labels else None, text=text)
            for i, text in enumerate(texts)
        ),
        outline=tuple(outline),
    )


class ToldGeneration:
    """What a model writes, for the attributes that reading looks at."""

    def __init__(self, text: str, finish: str) -> None:
        self._text = text
        self.finish = finish
        self.tokens = list(range(len(text.split())))

    def text(self) -> str:
        """Give it all."""
        return self._text

    def __iter__(self) -> Iterator[str]:
        # Pieces of a few characters, as tokens are.
        yield from (self._text[i : i + 3] for i in range(0, len(self._text), 3))


@dataclass
class ToldModel:
    """Records every prompt; answers with `says`, a text or a function of the prompt's text."""

    tokenizer: Tokenizer
    says: str | Callable[[str], str] = "An answer."
    finish: str = "eos"
    cca: CCAConfig = field(default_factory=CCAConfig)
    prompts: list[list[int]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.checkpoint = SimpleNamespace(name="told", adapter=None, adapted=False, config={})

    @classmethod
    def of(cls, checkpoint: Path, **options: Any) -> "ToldModel":
        """Take the tokenizer of a checkpoint directory."""
        return cls(load_tokenizer(checkpoint), **options)

    def new_memory(self, capacity: int) -> SimpleNamespace:
        """Make what stands for a memory."""
        return SimpleNamespace(capacity=capacity, seen=0)

    def generate(self, memory: Any, ids: Sequence[int], **settings: Any) -> ToldGeneration:
        """Record the prompt and say the text."""
        self.prompts.append(list(ids))
        self.settings.append(settings)
        text = self.says if isinstance(self.says, str) else self.says(self.tokenizer.decode(ids))
        return ToldGeneration(text, self.finish)
