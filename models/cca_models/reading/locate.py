"""Where in a memory the question's attention goes: the votes of the heads that locate.

Each head's attention from the question's tokens to the document's core tokens (and the raw tail) is
averaged over the question, and what a question without content gets is taken off: that removes the
heads' liking for certain places and styles (in-context re-ranking, ICLR 2025). A handful of heads
locate and the average of all heads does not (QRHead, arXiv 2506.09944); which ones is measured per
checkpoint, see docs/method.md.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cca_models.layer_memory import Probe, Sight
from cca_models.reading.prompts import question_suffix

if TYPE_CHECKING:
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
    """Give the heads that locate in a checkpoint: from its config, or measured here; else none."""
    carried = model.checkpoint.config.get("cca_locate_heads")
    if carried:
        return tuple((int(layer), int(head)) for layer, head in carried)
    return _MEASURED.get(model.checkpoint.name, ())


class _Votes:
    """Collects, for some heads, the attention that each token of the document gets."""

    def __init__(self, model: "LanguageModel", heads: Sequence[Head], tokens: int) -> None:
        self._group_size = model.cca.group_size
        self._rep = model.decoder.heads // model.decoder.kv_heads
        self._scale = model.decoder.scale
        self._tokens = tokens
        self._heads = heads
        self.found: dict[Head, Tensor] = {}

    def probes(self) -> dict[int, Probe]:
        layers = {layer for layer, _ in self._heads}
        return {
            layer: (lambda sight, layer=layer: self._look(layer, sight))  # type: ignore[misc]
            for layer in layers
        }

    def _look(self, layer: int, sight: Sight) -> None:
        """Compute one layer's attention, [heads, queries, keys], and spread it over the tokens."""
        G, cores = self._group_size, sight.core_k.shape[2]
        length, raw = sight.q.shape[2], sight.raw_k.shape[2]
        end = sight.position + length
        place = torch.arange(end - raw, end, device=sight.q.device)  # of each raw key
        query = torch.arange(sight.position, end, device=sight.q.device)
        hidden = (place[None] > query[:, None]) | (place < cores * G)[None]
        hidden = torch.nn.functional.pad(hidden, (cores, 0))
        for head in (h for at, h in self._heads if at == layer):
            q, kv = sight.q[0, head].float(), head // self._rep
            keys = torch.cat([sight.core_k[0, kv], sight.raw_k[0, kv]]).float()
            score = (q @ keys.T * self._scale).masked_fill(hidden, float("-inf"))
            weight = torch.softmax(score, dim=-1).mean(0).cpu()  # [cores + raw]
            spread = (weight[:cores, None] / G).expand(cores, G).reshape(-1)
            tail = weight[cores:][(place >= cores * G).cpu()]
            self.found[layer, head] = torch.cat([spread, tail])[: self._tokens]


def token_votes(
    model: "LanguageModel", memory: "Memory", question: str, heads: Sequence[Head]
) -> Tensor:
    """Let the question look at the document, and say how much each token drew.

    Args:
        model: What made the memory.
        memory: Of the document; it is forked, not changed.
        question: As asked.
        heads: At least one.

    Returns:
        One vote a token, float32 [memory.seen]; heads count alike, negative where a question
        without content draws more.
    """
    asked, empty = (_attention(model, memory, text, heads) for text in (question, _EMPTY_QUESTION))
    votes = torch.zeros(memory.seen)
    for head in heads:
        drawn = asked[head] - empty[head]
        votes += drawn / drawn.abs().sum().clamp(min=1e-9)
    return votes


def _attention(
    model: "LanguageModel", memory: "Memory", question: str, heads: Sequence[Head]
) -> dict[Head, Tensor]:
    collected = _Votes(model, heads, memory.seen)
    ids = question_suffix(model.tokenizer, question)
    model.probe(memory.fork(), ids, collected.probes())
    return collected.found
