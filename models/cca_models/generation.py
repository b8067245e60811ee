"""Writing on from a memory: an iterator over pieces of text."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from cca_models.memory import Memory

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel

Finish = Literal["eos", "stop", "length", "loop"]
# A run of at most so many tokens, written so many times in a row, goes on for ever.
_LOOP_TOKENS, _LOOP_TIMES = 8, 5
# Logits divided by less than this are no numbers any more; it writes the likeliest token anyway.
_COLDEST = 1e-6
# From a memory, the first token's logits and the most tokens to write: the likeliest tokens, one
# after the other, each with its log-probability.
Likeliest = Callable[[Memory, Tensor, int], Iterator[tuple[int, float]]]


class Generation:
    """One answer being written. Iterate over it for text; the attributes hold at the end.

    Attributes:
        tokens: Ids written so far, the end-of-text token left out.
        logprobs: Log-probability of each token written, natural log; of the end-of-text token
            too, last.
        finish: Why it ended: the model said so, a stop text, the length, or because it wrote the
            same few tokens again and again; None while it runs.
    """

    def __init__(
        self,
        model: "LanguageModel",
        memory: Memory,
        ids: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        repetition_penalty: float,
        seed: int,
        stop: Sequence[str],
        likeliest: Likeliest | None = None,
        opening: Callable[[Tensor], Tensor] | None = None,
        stop_loops: bool = False,
    ) -> None:
        if not 0 <= temperature < math.inf:
            raise ValueError(f"expected a temperature of 0 or more, got {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"expected top_p in (0, 1], got {top_p}")
        if repetition_penalty < 1:
            raise ValueError(f"expected repetition_penalty >= 1, got {repetition_penalty}")
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.finish: Finish | None = None
        self._model, self._memory, self._ids = model, memory, list(ids)
        self._max_new_tokens = max_new_tokens
        self._temperature, self._top_p = temperature, top_p
        self._penalty = repetition_penalty
        self._random = torch.Generator(device="cpu").manual_seed(seed % 2**63)
        self._stop = [s for s in stop if s]
        self._opening, self._stop_loops = opening, stop_loops
        # Choosing on the device pays only where nothing but the logits decides.
        plain = temperature == 0 and repetition_penalty == 1
        here = partial(one_by_one, model, self._choose)
        self._steps: Likeliest = likeliest if plain and likeliest is not None else here

    def text(self) -> str:
        """Write it all and give the text."""
        return "".join(self)

    def __iter__(self) -> Iterator[str]:
        """Write token by token; yields text that can no longer turn out to be a stop text."""
        stream = self._model.tokenizer.stream()
        held = ""
        for token in self._ids_written():
            held += stream.push(token)
            cut = min((i for s in self._stop if (i := held.find(s)) >= 0), default=-1)
            if cut >= 0:
                self.finish = "stop"
                if cut:
                    yield held[:cut]
                return
            safe = len(held) - self._stop_prefix(held)
            if safe:
                yield held[:safe]
                held = held[safe:]
        held += stream.flush()
        if held:
            yield held

    def _stop_prefix(self, text: str) -> int:
        """Count the last characters of the text that may be the beginning of a stop text."""
        longest = 0
        for s in self._stop:
            for n in range(min(len(s) - 1, len(text)), longest, -1):
                if text.endswith(s[:n]):
                    longest = n
                    break
        return longest

    def _ids_written(self) -> Iterator[int]:
        """Write token ids until the model ends or the length is reached."""
        logits = self._model.prefill(self._memory, self._ids)
        if self._opening is not None:
            logits = self._opening(logits)
        for token, logprob in self._steps(self._memory, logits, self._max_new_tokens):
            self.logprobs.append(logprob)
            if token in self._model.tokenizer.eos_ids:
                self.finish = "eos"
                return
            self.tokens.append(token)
            yield token
            if self._stop_loops and _repeats(self.tokens):
                self.finish = "loop"
                return
        self.finish = "length"

    def _choose(self, logits: Tensor) -> int:
        """Pick the next token: the likeliest, or one drawn from the nucleus."""
        if self._penalty != 1 and self.tokens:
            written = torch.tensor(sorted(set(self.tokens)), device=logits.device)
            part = logits[written]
            logits = logits.clone()
            logits[written] = torch.where(part > 0, part / self._penalty, part * self._penalty)
        if self._temperature == 0:
            return int(logits.argmax())
        probs = torch.softmax(logits.double().cpu() / max(self._temperature, _COLDEST), dim=-1)
        ordered, index = probs.sort(descending=True, stable=True)
        # Keep the smallest set that reaches top_p: the token that crosses the border included.
        ordered[(ordered.cumsum(0) - ordered) >= self._top_p] = 0
        return int(index[torch.multinomial(ordered, 1, generator=self._random)])


def _repeats(tokens: Sequence[int]) -> bool:
    """Say whether the last tokens are one short run over and over again."""
    for run in range(1, _LOOP_TOKENS + 1):
        end = tokens[-run * _LOOP_TIMES :]
        if len(end) == run * _LOOP_TIMES and all(
            end[i] == end[i % run] for i in range(run, len(end))
        ):
            return True
    return False


def one_by_one(
    model: "LanguageModel",
    choose: Callable[[Tensor], int],
    memory: Memory,
    logits: Tensor,
    limit: int,
) -> Iterator[tuple[int, float]]:
    """Choose each token from its logits, [V], and read it before the next.

    Yields:
        Every token with its log-probability; at most `limit`.
    """
    for left in range(limit, 0, -1):
        token = choose(logits)
        yield token, float(torch.log_softmax(logits, dim=-1)[token])
        if left > 1:
            logits = model.prefill(memory, [token])
