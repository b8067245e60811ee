"""What a method writes behind prompts other than a question about a document."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cca_models.documents import Document
from cca_models.evaluation.contexts import cut_pages
from cca_models.evaluation.types import Method, Reading
from cca_models.reading import prompts
from cca_models.reading.summarising import (
    REPETITION_PENALTY,
    SENTENCES,
    TOKENS_PER_SENTENCE,
    Length,
    Summariser,
)
from cca_models.reading.types import ReadMode

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel
    from cca_models.tokenizer import Tokenizer

_MARK = "\x00"


@runtime_checkable
class ModelMethod(Protocol):
    """A method with a model that writes behind any prompt; other methods are asked questions.

    Attributes:
        name: As the user names it.
        model: What locates and reads passages.
        reads: "core" reads all there is; "focus" and "lexical" find passages and read those.
        longest: Tokens of the longest prompt that it is meant for.
    """

    name: str
    model: "LanguageModel"
    reads: ReadMode
    longest: int

    def model_for(self, tokens: int) -> "LanguageModel":
        """Give the model that remembers so many tokens the way that this method does."""

    def read(self, passages: Sequence[str], *, room: int = 512) -> Reading:
        """Read a context; as Method.read."""

    def note(self, tokens: int) -> str:
        """Say what must be known about figures of this length; as Method.note."""


def write(
    method: ModelMethod,
    ids: Sequence[int],
    *,
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
) -> str:
    """Let the method's model read a prompt and write on, greedily.

    Raises:
        ContextTooLongError: If the model cannot be stretched that far.
    """
    tokens = len(ids) + max_new_tokens
    model = method.model_for(tokens)
    generation = model.generate(
        model.new_memory(tokens), ids, max_new_tokens=max_new_tokens,
        repetition_penalty=repetition_penalty,
    )  # fmt: skip
    return generation.text()


def chat_around(tokenizer: "Tokenizer", before: str, after: str) -> tuple[list[int], list[int]]:
    """Give the tokens on both sides of a text that stands in a chat's only message."""
    head, _, tail = tokenizer.chat([{"role": "user", "content": _MARK}]).partition(_MARK)
    # Names of special tokens are special in the template alone, not in what is put into it.
    return (
        [*tokenizer.encode_prompt(head), *tokenizer.encode(before)],
        [*tokenizer.encode(after), *tokenizer.encode_prompt(tail)],
    )


def summarise(method: Method, text: str, *, length: Length) -> str:
    """Summarise a text the way the method reads.

    Methods that find passages have no question to find them by: the product's Summariser reads the
    whole text for them, part by part. Those that read all at once are asked in the same words.

    Args:
        method: Who reads.
        text: All of it reaches the model.
        length: How long the summary shall be.

    Raises:
        ContextTooLongError: If the model cannot be stretched that far.
    """
    sentences = SENTENCES[length]
    most = sentences * TOKENS_PER_SENTENCE
    if not isinstance(method, ModelMethod):
        asked = f"Summarise the text in {sentences} sentences."
        return method.read(cut_pages(text)).ask(asked, max_new_tokens=most).text
    if method.reads == "core":
        ids = prompts.summary_prompt(method.model.tokenizer, text, sentences=sentences)
        return write(method, ids, max_new_tokens=most, repetition_penalty=REPETITION_PENALTY)
    summariser = Summariser(
        method.model, Document.of_texts(cut_pages(text), name="text"), length=length
    )
    return summariser.whole(list(summariser.sections())).summary
