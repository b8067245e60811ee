"""The tokens around what is read, as the reader words its prompts; and how tokens look."""

from dataclasses import dataclass

from cca_models.adaptation.token_shapes import TokenShapes
from cca_models.reading import prompts
from cca_models.reading.types import NOT_FOUND
from cca_models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Wording:
    """Pieces of prompts, as tokens.

    Attributes:
        prefix: Before every document.
        cue: Between a question and its answer.
        next_turn: Between an answer and a further question.
        end: What ends an answer.
        not_found: The answer where the text does not say.
        gap: Between passages.
        line: Between a title and its text.
        summary: Before and behind a text that is to be summarised, by sentences asked for.
        fill_in: Before a sentence with a blank.
        blank: The blank.
        what_follows: Before the first words of a quotation.
        shapes: What the tokens look like.
    """

    prefix: list[int]
    cue: list[int]
    next_turn: list[int]
    end: list[int]
    not_found: list[int]
    gap: list[int]
    line: list[int]
    summary: dict[int, tuple[list[int], list[int]]]
    fill_in: list[int]
    blank: list[int]
    what_follows: list[int]
    shapes: TokenShapes

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Wording":
        """Word them for a checkpoint."""
        turns = tokenizer.chat(
            [
                {"role": "user", "content": "\x00"},
                {"role": "assistant", "content": "\x01"},
                {"role": "user", "content": "\x02"},
                {"role": "assistant", "content": "\x03"},
            ],
            add_generation_prompt=False,
        )
        between = turns.partition("\x01")[2].partition("\x02")[0]
        end = _common_start(between, turns.partition("\x03")[2])
        question = prompts.question_suffix(tokenizer, "?")
        asked = tokenizer.encode(f"{prompts.QUESTION} ?")
        return cls(
            prefix=prompts.document_prefix(tokenizer),
            cue=question[len(asked) :],
            next_turn=tokenizer.encode_prompt(between[len(end) :]),
            end=tokenizer.encode_prompt(end),
            not_found=tokenizer.encode(f" {NOT_FOUND}"),
            gap=tokenizer.encode("\n\n"),
            line=tokenizer.encode("\n"),
            summary={n: _around_summary(tokenizer, n) for n in range(1, 13)},
            fill_in=tokenizer.encode(f"{prompts.QUESTION} Fill in the blank:"),
            blank=tokenizer.encode(" ____"),
            what_follows=tokenizer.encode(f"{prompts.QUESTION} What follows “"),
            shapes=TokenShapes.of(tokenizer),
        )


def _common_start(a: str, b: str) -> str:
    """Give what both begin with, white space at its end left out: the mark that ends a turn."""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return a[:n].rstrip()


def _around_summary(tokenizer: Tokenizer, sentences: int) -> tuple[list[int], list[int]]:
    """Give what stands before and behind a text to be summarised."""
    one, two = (prompts.summary_prompt(tokenizer, text, sentences=sentences) for text in ("a", "b"))
    before = 0
    while one[before] == two[before]:
        before += 1
    return one[:before], one[before + 1 :]
