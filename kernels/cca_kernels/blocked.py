"""Attention in blocks of queries, for any device, differentiable: no L x L tensor is made.

A block's keys are the core tokens that its last query sees and the raw tokens from where its first
query's window starts; a mask sorts out the ragged edge. Shapes as in cca_kernels.api.
"""

import torch
from torch import Tensor

from cca_kernels.partition import query_blocks, raw_start, visible_cores
from cca_kernels.reference import visibility

_BLOCK = 512


def _one_softmax(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend with query heads folded onto their KV head: q [B, H, L, D], k [B, KV, S, D]."""
    B, H, L, D = q.shape
    KV, S = k.shape[1:3]
    rep = H // KV
    acc = torch.promote_types(q.dtype, torch.float32)
    folded = q.reshape(B, KV, rep * L, D)
    score = (folded @ k.transpose(-1, -2)).to(acc).mul(scale).view(B, KV, rep, L, S)
    if seen is not None:
        score = score.masked_fill(~seen, float("-inf"))
    lse = torch.logsumexp(score, dim=-1, keepdim=True)
    weight = torch.exp(score - lse).to(v.dtype).view(B, KV, rep * L, S)
    return (weight @ v).view(B, H, L, D), lse.reshape(B, H, L)


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
    """Attend block by block of queries; arguments as in cca_kernels.api, already checked."""
    outs, lses = [], []
    for rows, cores, raw in query_blocks(
        position, q.shape[2], k.shape[2], block=_BLOCK, group_size=group_size, window=window
    ):
        keys = torch.cat([core_k[:, :, :cores], k[:, :, raw]], dim=2)
        values = torch.cat([core_v[:, :, :cores], v[:, :, raw]], dim=2)
        seen = visibility(
            position=position + rows.start, L=rows.stop - rows.start, S=raw.stop - raw.start,
            M=cores, group_size=group_size, window=window, device=q.device,
        )  # fmt: skip
        o, lse = _one_softmax(q[:, :, rows], keys, values, seen, scale)
        outs.append(o)
        lses.append(lse)
    if len(outs) == 1:
        return outs[0], lses[0]
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def decode(
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
    """Attend from a few queries without copying the core tokens: two score pieces, one softmax."""
    B, H, L, D = q.shape
    KV, S = k.shape[1:3]
    cores = visible_cores(position + L - 1, group_size=group_size, window=window)
    start = raw_start(position, group_size=group_size, window=window) - (position + L - S)
    k, v = k[:, :, start:], v[:, :, start:]
    core_k, core_v = core_k[:, :, :cores], core_v[:, :, :cores]
    acc = torch.promote_types(q.dtype, torch.float32)
    folded = q.reshape(B, KV, -1, D)
    pieces = [folded @ core_k.transpose(-1, -2), folded @ k.transpose(-1, -2)]
    score = torch.cat(pieces, dim=-1).to(acc).mul(scale)  # [B, KV, H / KV * L, M + S]
    if L > 1:
        seen = visibility(
            position=position, L=L, S=k.shape[2], M=cores,
            group_size=group_size, window=window, device=q.device,
        )  # fmt: skip
        score = score.view(B, KV, -1, L, seen.shape[1]).masked_fill(~seen, float("-inf"))
        score = score.flatten(2, 3)
    lse = torch.logsumexp(score, dim=-1, keepdim=True)
    weight = torch.exp(score - lse).to(v.dtype)
    o = weight[..., :cores] @ core_v + weight[..., cores:] @ v
    return o.view(B, H, L, D), lse.reshape(B, H, L)
