"""Torch's attention, for peers: causal over all that is held, or where a mask allows."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from cca_models.peers import kernels
from cca_models.peers.oracle import spread


def dense(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Attend causally; the last query stands where the last key does. [B, H, L, D]."""
    L, S = q.shape[2], k.shape[2]
    # Torch's kernels leave most of a GPU idle where few queries read a long past.
    if L <= kernels.FEW and kernels.use_kernels(q):
        return kernels.few(q, k, v, scale=scale)
    # GQA without a mask keeps torch's fast kernels; on the CPU they want the heads repeated.
    if q.device.type == "cpu":
        k, v = spread(k, q.shape[1]), spread(v, q.shape[1])
    gqa = k.shape[1] != q.shape[1]
    if L == 1 or L == S:
        return F.scaled_dot_product_attention(q, k, v, is_causal=L > 1, scale=scale, enable_gqa=gqa)
    # A mask that says what it is keeps the fast kernels; a tensor would not.
    later = causal_lower_right(L, S)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=later, scale=scale, enable_gqa=gqa)


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, scale: float) -> Tensor:
    """Attend where a mask, broadcast to [B, H, L, S], allows; every query must see a key."""
    k, v = spread(k, q.shape[1]), spread(v, q.shape[1])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def wide(x: Tensor) -> Tensor:
    """Give x in float32 at least: choices, sums and turns are not made in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product(q: Tensor, k: Tensor) -> Tensor:
    """Multiply heads, [B, H, L, D] and [B, KV, S, D] -> [B, H, L, S], in float32 at least.

    The KV heads are not repeated. Numbers of half precision are multiplied as they are, which
    rounds no product; sums are those of float32.
    """
    (B, H, L, D), KV = q.shape, k.shape[1]
    rows = q.reshape(B * KV, H // KV * L, D)
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        score = torch.bmm(rows, k.flatten(0, 1).mT, out_dtype=torch.float32)
    else:
        score = wide(rows) @ wide(k).flatten(0, 1).mT
    return score.view(B, H, L, -1)


def softmax(score: Tensor) -> Tensor:
    """Softmax over the last axis, in float32 at least, given back in the dtype that came."""
    return wide(score).softmax(-1).to(score.dtype)
