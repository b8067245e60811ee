"""The specification: CCA-Attention written out in torch, for any dtype up to float64.

Nothing here is fast. Every other implementation is tested against these functions.
Source of the method: "Core Context Aware Transformers for Long Context Language Modeling",
ICML 2025, arXiv 2412.12465; the partition and the anchors of GQA are explained in docs/method.md.
"""

import torch
from torch import Tensor


def group_anchors(q: Tensor, *, kv_heads: int) -> Tensor:
    """Average the queries of the heads that share a KV head, [B, H, M, D] -> [B, KV, M, D]."""
    shared: Tensor = q.unflatten(1, (kv_heads, -1))  # [B, KV, H / KV, M, D]
    return shared.mean(2)


def pool_groups(
    k: Tensor, v: Tensor, anchor: Tensor, *, group_size: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Fold every group of keys and values into one core token, weighted by its anchor query."""
    L = k.shape[2]
    M = L // group_size
    k = k[:, :, : M * group_size].unflatten(2, (M, group_size))  # [B, KV, M, G, D]
    v = v[:, :, : M * group_size].unflatten(2, (M, group_size))  # [B, KV, M, G, D]
    weight = torch.softmax((k @ anchor[..., None]).squeeze(-1) * scale, dim=-1)  # [B, KV, M, G]
    return (weight[..., None] * k).sum(3), (weight[..., None] * v).sum(3)  # [B, KV, M, D]


def visibility(
    *, position: int, L: int, S: int, M: int, group_size: int, window: int, device: torch.device
) -> Tensor:
    """Say which of the M core tokens and S raw tokens each of L queries sees, bool [L, M + S].

    The first query stands at `position`; the last raw key stands where the last query stands.
    """
    p = torch.arange(position, position + L, device=device)[:, None]
    m = torch.div(p + 1 - window, group_size, rounding_mode="floor").clamp(min=0)  # [L, 1]
    core = torch.arange(M, device=device)[None]
    raw = torch.arange(position + L - S, position + L, device=device)[None]
    return torch.cat([core < m, (raw >= m * group_size) & (raw <= p)], dim=1)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    core_k: Tensor,
    core_v: Tensor,
    *,
    position: int,
    group_size: int,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attend to core tokens and raw tokens in one softmax; return output and log-sum-exp."""
    H, L = q.shape[1:3]
    KV, S, M = k.shape[1], k.shape[2], core_k.shape[2]
    keys = torch.cat([core_k, k], dim=2).repeat_interleave(H // KV, dim=1)  # [B, H, M + S, D]
    values = torch.cat([core_v, v], dim=2).repeat_interleave(H // KV, dim=1)
    seen = visibility(
        position=position, L=L, S=S, M=M, group_size=group_size, window=window, device=q.device
    )
    score = (q @ keys.transpose(-1, -2)) * scale  # [B, H, L, M + S]
    score = score.masked_fill(~seen, float("-inf"))
    lse = torch.logsumexp(score, dim=-1)  # [B, H, L]
    return torch.exp(score - lse[..., None]) @ values, lse
