"""Reading the chosen passages one by one, to answer from the one that knows most surely.

A small model that reads several passages at once is led astray by those that only sound alike.
Alone, a passage without the answer mostly makes it say "not found", so the one that makes it say so
least is the one to answer from. Measured in docs/trials.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cca_models.reading import prompts
from cca_models.reading.refusing import refusal_share, refusal_token
from cca_models.reading.types import Turn

if TYPE_CHECKING:
    from cca_models.memory import Memory
    from cca_models.reading.reader import Reader


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPassage:
    """A passage that was read with the question behind it.

    Attributes:
        passage: Its place in the reader's passages.
        memory: Of the prompt but for its last token.
        last: The prompt's last token.
        refusal: Probability that an answer from it begins as "not found" does.
    """

    passage: int
    memory: "Memory"
    last: int
    refusal: float

    @property
    def tokens(self) -> int:
        """Tokens of the prompt."""
        return self.memory.seen + 1


def read_apart(
    reader: "Reader",
    chosen: Sequence[int],
    question: str,
    history: Sequence[Turn] = (),
    *,
    room: int = 1,
) -> list[ReadPassage]:
    """Read passages one by one.

    Args:
        reader: Whose passages they are.
        chosen: Their places, best first.
        question: As asked.
        history: What was asked before.
        room: Tokens that the memories shall hold behind the prompt.

    Returns:
        The passages, the one that knows most surely first; equal ones in the order given.
    """
    model, found = reader.model, []
    token = refusal_token(model)
    for i in chosen:
        ids = prompts.passage_prompt(model.tokenizer, reader.texts([i]), question, history)
        memory = model.new_memory(len(ids) + room)
        model.prefill(memory, ids[:-1])
        logits = model.prefill(memory.fork(), ids[-1:])
        refusal = refusal_share(logits, token)
        found.append(ReadPassage(passage=i, memory=memory, last=ids[-1], refusal=refusal))
    return sorted(found, key=lambda one: one.refusal)
