"""What the tests of attentions that choose blocks share: one read in steps, or by its oracle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cca_models.peers import AttentionRecord, Place


def place(heads: int, kv_heads: int, dim: int) -> Place:
    frequencies = torch.ones(dim // 2)
    return Place(
        layer=0, layers=1, heads=heads, kv_heads=kv_heads, head_dim=dim, frequencies=frequencies
    )


def draw(heads: int, kv_heads: int, length: int, dim: int = 8, *, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, h, length, dim, generator=random, dtype=torch.float64)
        for h in (heads, kv_heads, kv_heads)
    ]


def numbered(length: int, dim: int = 2) -> Tensor:
    """Values that tell which tokens were read: the mean of their numbers comes out."""
    return torch.arange(length, dtype=torch.float64)[:, None].expand(1, 1, length, dim).clone()


@dataclass(frozen=True)
class Peer:
    """An attention at a test's own scale and settings; a call may change single settings."""

    record: AttentionRecord
    settings: Mapping[str, Any]
    scale: float

    def read(
        self, q: Tensor, k: Tensor, v: Tensor, steps: tuple[int, ...] = (), **settings: Any
    ) -> Tensor:
        """Read all tokens, in as many steps as there are lengths."""
        where = place(q.shape[1], k.shape[1], q.shape[3])
        layer = self.record.make(where, **{**self.settings, **settings})
        parts = [t.split(steps or q.shape[2], 2) for t in (q, k, v)]
        pieces = zip(*parts, strict=True)
        return torch.cat([layer.attend(*piece, scale=self.scale) for piece in pieces], 2)

    def by_definition(self, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
        """Ask the oracle instead."""
        where = place(q.shape[1], k.shape[1], q.shape[3])
        chosen = {**self.settings, **settings}
        return self.record.oracle(q, k, v, scale=self.scale, place=where, **chosen)
