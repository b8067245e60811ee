"""How a method answers an instance of LongBench.

Questions are asked as the product asks them. The rest is written behind the published kind of
prompt: few-shot tasks and code as plain text, the others as a chat. Methods that read all at once
get the whole context. Methods that find passages get those parts of it that they find and that fit
the window, in order; code is found for its last lines, which are kept; reports and news are
summarised part by part. A method without a model of its own is asked everything as a question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cca_models.evaluation.contexts import TextCache, cut_pages
from cca_models.evaluation.longbench_files import Instance
from cca_models.evaluation.longbench_prompts import (
    Wording,
    pieces,
    question,
    wording,
)
from cca_models.evaluation.types import Method
from cca_models.evaluation.writing import ModelMethod, chat_around, summarise, write

if TYPE_CHECKING:
    from cca_models.tokenizer import Tokenizer

# Characters at the end of unfinished code that other parts of it are found by.
_QUERY_CHARACTERS = 600
_UNANSWERABLE = "unanswerable"
# Where a text was cut in the middle its tokens may become a few more.
_SEAM = 8


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, and the tokens of the context that were left out in the middle for it."""

    text: str
    left_out: int = 0


class Answerer:
    """Puts instances to methods.

    Args:
        tokenizer: Of the model.
        max_new_tokens: Most tokens of an answer; each data set's own if None.
    """

    def __init__(self, tokenizer: "Tokenizer", *, max_new_tokens: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._texts = TextCache(tokenizer)
        self._most = max_new_tokens

    def answer(self, instance: Instance, method: Method) -> Answered:
        """Answer an instance.

        Raises:
            ContextTooLongError: If the model cannot be stretched that far.
        """
        most = self._most or instance.dataset.max_new_tokens
        asked = question(instance)
        if asked is not None:
            return self._ask(instance, method, asked, most)
        words = wording(instance)
        if not isinstance(method, ModelMethod):
            return self._ask(instance, method, words.after.strip(), most)
        if method.reads == "core":
            return self._read_all(instance, method, words, most)
        if instance.dataset.measure == "rouge_l" and instance.dataset.chat:
            return Answered(summarise(method, instance.context, length="long"))
        return Answered(self._read_found(instance, method, words, most))

    def _ask(self, instance: Instance, method: Method, asked: str, most: int) -> Answered:
        finds = isinstance(method, ModelMethod) and method.reads != "core"
        if finds and question(instance) is not None:
            # The rule for the answer's form would be searched for, too.
            asked = instance.input
        room = self._texts.room([asked], most)
        text, left_out = instance.context, 0
        if isinstance(method, ModelMethod) and not finds:
            rest = method.longest - room - len(self._texts.prefix)
            text, left_out = self._cut(text, rest)
        reply = method.read(cut_pages(text), room=room).ask(asked, max_new_tokens=most)
        if instance.dataset.name == "qasper" and reply.found is False:
            return Answered(_UNANSWERABLE, left_out)
        return Answered(reply.text, left_out)

    def _read_all(
        self, instance: Instance, method: ModelMethod, words: Wording, most: int
    ) -> Answered:
        head, tail = self._around(instance, words)
        text, left_out = self._cut(instance.context, method.longest - len(head) - len(tail) - most)
        ids = [*head, *self._tokenizer.encode(text), *tail]
        return Answered(write(method, ids, max_new_tokens=most), left_out)

    def _read_found(
        self, instance: Instance, method: ModelMethod, words: Wording, most: int
    ) -> str:
        head, tail = self._around(instance, words)
        window = method.model.cca.window
        # A long example or much code behind the context may fill the window: the first of it is
        # then read through core tokens.
        room = max(window - len(head) - len(tail) - most, window // 2)
        parts = pieces(instance)
        kept: list[str] = []
        query = instance.input
        if instance.dataset.category == "Code":
            kept = self._last(parts, room // 2)
            parts = parts[: len(parts) - len(kept)]
            query = f"{instance.context}{instance.input}"[-_QUERY_CHARACTERS:]
            room -= len(self._tokenizer.encode("".join(kept)))
        found = self._find(parts, method, query, room)
        context = self._tokenizer.encode("".join([*found, *kept]))
        return write(method, [*head, *context, *tail], max_new_tokens=most)

    def _find(self, parts: Sequence[str], method: ModelMethod, query: str, room: int) -> list[str]:
        """Choose the best parts that fit, in order; without a query or a find, the first."""
        places = [place for place, part in enumerate(parts) if part.strip()]
        order: list[int] = []
        if query.strip() and places:
            reading = method.read(
                [parts[place] for place in places], room=self._texts.room([query], 0)
            )
            if method.reads == "focus":
                order = reading.rank(query, by="fused")
            order = order or reading.rank(query, by="bm25")
        chosen = []
        for rank in order or range(len(places)):
            tokens = len(self._tokenizer.encode(parts[places[rank]]))
            if tokens <= room:
                chosen.append(places[rank])
                room -= tokens
        return [parts[place] for place in sorted(chosen)]

    def _last(self, parts: Sequence[str], room: int) -> list[str]:
        """Give the last parts that fit; one at least, if there is any."""
        count = 0
        for part in reversed(parts):
            room -= len(self._tokenizer.encode(part))
            if room < 0 and count:
                break
            count += 1
        return list(parts[len(parts) - count :])

    def _around(self, instance: Instance, words: Wording) -> tuple[list[int], list[int]]:
        if instance.dataset.chat:
            return chat_around(self._tokenizer, words.before, words.after)
        encode = self._tokenizer.encode
        return encode(words.before), encode(words.after)

    def _cut(self, text: str, most: int) -> tuple[str, int]:
        """Leave out the middle of a text that is too long, as published; and say how much."""
        ids = self._tokenizer.encode(text)
        if len(ids) <= most:
            return text, 0
        half = max(most - _SEAM, 0) // 2
        decode = self._tokenizer.decode
        return decode(ids[:half]) + decode(ids[len(ids) - half :]), len(ids) - 2 * half
