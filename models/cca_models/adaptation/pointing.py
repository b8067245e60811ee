"""Rewarding attention that points at the answer.

A few heads are the reader's compass: their attention from a question's tokens over the core tokens
says which passages to read again. In training their mass on the core tokens of the passage that
holds the answer is raised: the loss is minus the logarithm of that mass, averaged over heads and
question tokens first, so that it is enough if some of them know.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cca_models.adaptation.recipe import Batch

Head = tuple[int, int]
# What keeps the logarithm finite before the heads know anything.
_LEAST = 1e-6


class Pointing:
    """Watches the attention of one forward; handed to the model as `observer`.

    Args:
        heads: Layer and query head of each head that shall locate.
        batch: What is read; rows without questions are not watched.
        group_size: Tokens per core token, G.
    """

    def __init__(self, heads: Sequence[Head], batch: Batch, *, group_size: int) -> None:
        self._heads = {layer: [h for at, h in heads if at == layer] for layer, _ in heads}
        self._batch, self._group_size = batch, group_size
        self._mass: dict[Head, Tensor] = {}
        self._closed = not len(batch.looks)
        self._device_tables: tuple[Tensor, ...] | None = None

    def see(self, layer: int, q: Tensor, core_k: Tensor, *, scale: float) -> None:
        """Take note of one layer's attention.

        Args:
            layer: Its number.
            q: Rotated queries, [B, H, L, D].
            core_k: Keys of the core tokens, [B, KV, M, D].
            scale: Of the scores.
        """
        if layer not in self._heads or not len(self._batch.looks) or not core_k.shape[2]:
            return
        row, place, real, gold, hidden = self._tables(core_k.shape[2], q.device)
        rep = q.shape[1] // core_k.shape[1]
        for head in self._heads[layer]:
            asked = q[row[:, None], head, place]  # [Q, T, D]
            keys = core_k[row, head // rep]  # [Q, M, D]
            score = torch.matmul(asked, keys.transpose(1, 2)).float() * scale
            weight = torch.softmax(score.masked_fill(hidden[:, None], float("-inf")), -1)
            each = (weight * gold[:, None]).sum(-1)  # [Q, T]
            mass = (each * real).sum(1) / real.sum(1)
            # A checkpointed layer comes by a second time, for its gradient: the same products
            # are wanted then, but they have been counted.
            if not self._closed:
                self._mass[layer, head] = mass

    def masses(self) -> dict[Head, Tensor]:
        """Give each head's mass on the gold passage of each question, [Q]; 0 where unknown."""
        return dict(self._mass)

    def located(self) -> float:
        """Count the questions whose passage has core tokens to point at."""
        return 0.0 if self._device_tables is None else float((self._tables_gold() > 0).sum())

    def loss(self) -> tuple[Tensor | None, Tensor | None]:
        """Give the loss, and the share of passages that drew more than half of the mass."""
        self._closed = True
        if not self._mass:
            return None, None
        # A passage of which no group is folded yet cannot be pointed at.
        known = (self._tables_gold() > 0).float()
        mass = torch.stack(list(self._mass.values())).mean(0)
        count = known.sum().clamp(min=1.0)
        loss = -((mass + _LEAST).log() * known).sum() / count
        return loss, ((mass.detach() > 0.5) * known).sum() / count

    def _tables_gold(self) -> Tensor:
        """Count the gold groups of each question, [Q]."""
        assert self._device_tables is not None
        return self._device_tables[3].sum(1)

    def _tables(self, cores: int, device: torch.device) -> tuple[Tensor, ...]:
        """Make the index tables once: row, place, real [Q, T], gold and hidden [Q, M]."""
        if self._device_tables is None:
            looks, G = self._batch.looks, self._group_size
            row, start, end = looks.unbind(1)
            longest = int((end - start).max())
            place = start[:, None] + torch.arange(longest)
            real = place < end[:, None]
            place = torch.minimum(place, end[:, None] - 1)
            gold = torch.zeros(len(looks), cores)
            for question, a, b in self._batch.gold.tolist():
                gold[question, a // G : (b - 1) // G + 1] = 1
            # Core tokens of earlier questions and answers are no part of the document.
            body = torch.stack([start[row == r].min() for r in row.tolist()])
            hidden = torch.arange(cores)[None] >= (body // G).clamp(min=1)[:, None]
            gold = gold.masked_fill(hidden, 0)
            tables = (row, place, real.float(), gold, hidden)
            self._device_tables = tuple(t.to(device) for t in tables)
        return self._device_tables
