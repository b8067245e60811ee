"""What the oracles share: attention by a mask, as the definitions are written. Slow, and plain."""

import torch
from torch import Tensor


def spread(x: Tensor, heads: int) -> Tensor:
    """Repeat KV heads for the query heads that share them, [B, KV, S, D] -> [B, H, S, D]."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def scores(q: Tensor, k: Tensor, *, scale: float) -> Tensor:
    """Score all queries against all keys, [B, H, L, S]."""
    return q @ spread(k, q.shape[1]).transpose(-1, -2) * scale


def weighted(score: Tensor, mask: Tensor, v: Tensor) -> Tensor:
    """Softmax over what a mask lets through, and the mean of the values; rows without any give 0.

    Args:
        score: [B, H, L, S].
        mask: Broadcasts to score; True where a query sees a key.
        v: [B, KV, S, D].
    """
    weight = score.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0.0)
    return weight @ spread(v, score.shape[1])


def causal(length: int, *, device: torch.device | None = None) -> Tensor:
    """Give the mask of full attention, [L, L]."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def by_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, scale: float) -> Tensor:
    """Attend where a mask and causality allow; see `weighted`."""
    allowed = mask & causal(q.shape[2], device=q.device)
    return weighted(scores(q, k, scale=scale), allowed, v)
