"""What the tests of static patterns share: who sees whom, read off a layer's outputs."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cca_models.peers import Place, record
from cca_models.peers.past import PeerLayer

SCALE = 0.4


def place(heads: int, kv_heads: int, D: int = 16, *, layer: int = 0, seed: int = 0) -> Place:
    frequencies = 10000.0 ** (-torch.arange(D // 2, dtype=torch.float64) * 2 / D)
    return Place(
        layer=layer, layers=4, heads=heads, kv_heads=kv_heads, head_dim=D,
        frequencies=frequencies, seed=seed,
    )  # fmt: skip


def make(name: str, where: Place, **settings: Any) -> PeerLayer:
    layer = record(name).make(where, **settings)
    assert isinstance(layer, PeerLayer)
    return layer


def draw(heads: int, kv_heads: int, length: int, D: int = 16) -> list[Tensor]:
    random = torch.Generator().manual_seed(7)
    return [
        torch.randn(1, h, length, D, generator=random, dtype=torch.float64)
        for h in (heads, kv_heads, kv_heads)
    ]


def weights(layer: PeerLayer, heads: int, length: int, steps: Sequence[int] = ()) -> Tensor:
    """Give the weight of every key for every query, [H, L, L]: values are unit vectors."""
    D = length + length % 2
    q, k, _ = draw(heads, heads, length, D)
    v = torch.eye(length, D, dtype=torch.float64).expand(1, heads, -1, -1)
    pieces = zip(*(t.split(list(steps) or [length], 2) for t in (q, k, v)), strict=True)
    return torch.cat([layer.attend(*p, scale=SCALE) for p in pieces], 2)[0, :, :, :length]


def picture(seen: Tensor) -> list[str]:
    """Draw weights [L, L] as rows of # and dots."""
    return ["".join("#" if w > 0 else "." for w in row) for row in seen]


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    score = (q @ k.transpose(-1, -2) * SCALE).masked_fill(later, -torch.inf)
    return score.softmax(-1) @ v


def count_keys(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many keys every call of torch's attention is given."""
    counts: list[int] = []
    real = F.scaled_dot_product_attention

    def counted(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        counts.append(k.shape[-2])
        return real(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    return counts
