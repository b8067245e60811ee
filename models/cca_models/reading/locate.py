"""Where in a memory the question's attention goes: the votes of the heads that locate.

Each head's attention from the question's tokens to the document's core tokens (and the raw tail) is
averaged over the question, and what a question without content gets is taken off: that removes the
heads' liking for certain places and styles (in-context re-ranking, ICLR 2025), unless the
adapter says that its heads need no such thing. A handful of heads
locate and the average of all heads does not (QRHead, arXiv 2506.09944); which ones is measured per
checkpoint, see docs/method.md.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cca_models.adapters.adapter_files import trained_settings
from cca_models.layer_memory import Probe, Sight
from cca_models.reading.prompts import question_suffix
from cca_models.reading.types import Turn

if TYPE_CHECKING:
    from cca_models.adapters.settings import LocateSettings
    from cca_models.engine import LanguageModel
    from cca_models.memory import Memory

Head = tuple[int, int]

# Layer and query head, counted from 0, best first. Chosen on reading-comprehension questions among
# distractors at 8K tokens (training data, not evaluation data), for the checkpoint as published.
_MEASURED: dict[str, tuple[Head, ...]] = {
    "smollm2-135m-instruct": (
        (15, 6),
        (18, 8),
        (18, 7),
        (15, 7),
    ),
}
_EMPTY_QUESTION = "N/A"


def locating_heads(model: "LanguageModel") -> tuple[Head, ...]:
    """Give the heads that locate: the adapter's, the checkpoint's config's, or measured here.

    None are known for other checkpoints.
    """
    settings = _settings(model)
    if settings is not None and settings.heads:
        return settings.heads
    carried = model.checkpoint.config.get("cca_locate_heads")
    if carried:
        return tuple((int(layer), int(head)) for layer, head in carried)
    return _MEASURED.get(model.checkpoint.name, ())


def attention_weight(model: "LanguageModel", *, otherwise: float) -> float:
    """Give what attention counts beside BM25, which counts 1: the adapter's word, if it has one."""
    settings = _settings(model)
    weight = settings.attention_weight if settings else None
    return otherwise if weight is None else weight


def _settings(model: "LanguageModel") -> "LocateSettings | None":
    """Give what the checkpoint's adapter says of locating."""
    settings = trained_settings(model.checkpoint.adapter)
    return settings.locate if settings else None


class _Votes:
    """Collects, for some heads, the attention that each token of the document gets."""

    def __init__(
        self, model: "LanguageModel", heads: Sequence[Head], tokens: int, *, last: bool = False
    ) -> None:
        self._group_size = model.cca.group_size
        self._rep = model.decoder.heads // model.decoder.kv_heads
        self._scale = model.decoder.scale
        self._tokens = tokens
        self._heads = heads
        self._first = -1 if last else 0
        self.scores: dict[Head, Tensor] = {}  # [question's tokens, core tokens and raw tail]
        self.cores = 0

    def probes(self) -> dict[int, Probe]:
        layers = {layer for layer, _ in self._heads}
        return {
            layer: (lambda sight, layer=layer: self._look(layer, sight))  # type: ignore[misc]
            for layer in layers
        }

    def _look(self, layer: int, sight: Sight) -> None:
        """Compute one layer's scores for the document's core tokens and raw tail.

        Question tokens that look at each other locate nothing, so they are left out; training
        rewards the same attention.
        """
        G, end = self._group_size, sight.position + sight.q.shape[2]
        cores = min(sight.core_k.shape[2], self._tokens // G)
        place = torch.arange(end - sight.raw_k.shape[2], end, device=sight.q.device)
        tail = (place >= cores * G) & (place < self._tokens)  # not folded, and no question
        for head in (h for at, h in self._heads if at == layer):
            q, kv = sight.q[0, head, self._first :].float(), head // self._rep
            keys = torch.cat([sight.core_k[0, kv, :cores], sight.raw_k[0, kv, tail]]).float()
            self.scores[layer, head] = (q @ keys.T * self._scale).cpu()
        self.cores = cores

    def attention(self, head: Head, everything: Tensor) -> Tensor:
        """Give what each token drew from one head, [tokens].

        Args:
            head: Layer and head.
            everything: The log of the sum over all keys that were looked at, [questions' tokens].
        """
        weight = (self.scores[head] - everything[:, None]).exp().mean(0)
        cores, G = self.cores, self._group_size
        spread = (weight[:cores, None] / G).expand(cores, G).reshape(-1)
        return torch.cat([spread, weight[cores:]])


def token_votes(
    model: "LanguageModel",
    memories: "Sequence[Memory]",
    question: str,
    heads: Sequence[Head],
    history: Sequence[Turn] = (),
) -> list[Tensor]:
    """Let the question look at documents, and say how much each token drew.

    Args:
        model: What made the memories.
        memories: One a document; they are forked, not changed.
        question: As asked.
        heads: At least one.
        history: What was asked before.

    Returns:
        For each memory one vote a token, float32 [memory.seen]; heads count alike, negative where
        a question without content draws more.
    """
    asked = attention(model, memories, question, heads, history)
    settings = _settings(model)
    plain = settings is not None and settings.subtract_empty is False
    empty = None if plain else attention(model, memories, _EMPTY_QUESTION, heads)
    votes = [torch.zeros(memory.seen) for memory in memories]
    for head in heads:
        drawn = [one[head] for one in asked]
        if empty is not None:
            drawn = [one - none[head] for one, none in zip(drawn, empty, strict=True)]
        total = torch.stack([one.abs().sum() for one in drawn]).sum().clamp(min=1e-9)
        for vote, one in zip(votes, drawn, strict=True):
            vote += one / total
    return votes


def attention(
    model: "LanguageModel",
    memories: "Sequence[Memory]",
    question: str,
    heads: Sequence[Head],
    history: Sequence[Turn] = (),
    *,
    last: bool = False,
) -> list[dict[Head, Tensor]]:
    """Say what share of each head's attention every token draws.

    Each document is looked at on its own; one softmax then runs over the keys of all of them, so
    that they compete as the parts of one document do.

    Args:
        model: What made the memories.
        memories: One a document; they are forked, not changed.
        question: As asked.
        heads: At least one.
        history: What was asked before.
        last: Whether only the last token looks, which the answer begins from, instead of the
            question's tokens on average.

    Returns:
        For each memory, by head, [memory.seen]; over all memories they add up to 1. A core
        token's share is spread evenly over its group.
    """
    ids = question_suffix(model.tokenizer, question, history)
    looks = []
    for memory in memories:
        looks.append(_Votes(model, heads, memory.seen, last=last))
        model.probe(memory.fork(), ids, looks[-1].probes())
    everything = {
        head: torch.stack([look.scores[head].logsumexp(-1) for look in looks]).logsumexp(0)
        for head in heads
    }
    return [{head: look.attention(head, everything[head]) for head in heads} for look in looks]
