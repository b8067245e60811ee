"""How much the query heads of a KV head look at blocks of keys: their weights, summed over heads.

    weight(query, block) = sum over heads of exp(scale * q . mean(K of the block) - lse(head))

Shapes: q [B, H, L, D]; means [B, KV, M, D] of blocks that are full; weights [B, KV, L, N] of all
blocks begun. A program takes some queries, some blocks, and the heads one after the other.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cca_kernels.primitives import LOG2_E

_QUERIES, _BLOCKS = 64, 64


@triton.jit(do_not_specialize=["L", "M", "N", "position", "first", "last"])
def block_weights_kernel(
    q,
    means,
    lse,
    weights,
    q_strides,
    means_strides,
    L,
    M,
    N,
    position,
    block,
    first,
    last,
    scale,
    KV: tl.constexpr,
    REP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    i_b, i_kv = (tl.program_id(2) // KV).to(tl.int64), (tl.program_id(2) % KV).to(tl.int64)
    o_l = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    own = (position + o_l) // block
    full = (position + o_l + 1) // block
    b_w = tl.zeros([BLOCK_Q, BLOCK_N], tl.float32)
    # Behind the last query's own block nobody sees anything.
    if tl.program_id(1) * BLOCK_N <= (position + tl.program_id(0) * BLOCK_Q + BLOCK_Q) // block:
        p_k = means + i_b * means_strides[0] + i_kv * means_strides[1]
        p_k += o_n.to(tl.int64)[:, None] * means_strides[2] + o_d[None, :]
        b_k = tl.load(p_k, mask=(o_n < M)[:, None] & m_d[None, :], other=0.0).to(tl.float32)
        for i_r in range(REP):
            i_h = i_kv * REP + i_r
            p_q = q + i_b * q_strides[0] + i_h * q_strides[1]
            p_q += o_l.to(tl.int64)[:, None] * q_strides[2] + o_d[None, :]
            b_q = tl.load(p_q, mask=(o_l < L)[:, None] & m_d[None, :], other=0.0).to(tl.float32)
            b_lse = tl.load(lse + (i_b * KV * REP + i_h) * L + o_l, mask=o_l < L, other=0.0)
            b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
            # Where nothing is seen yet the log-sum-exp is minus infinity, and masked below.
            b_w += tl.exp2((b_s * scale - b_lse[:, None]) * LOG2_E)
    b_w = tl.where((o_n[None, :] < full[:, None]) & (o_n < M)[None, :], b_w, 0.0)
    always = (o_n < first)[None, :] | (o_n[None, :] > own[:, None] - last)
    b_w = tl.where(always, 3.0e38, b_w)
    b_w = tl.where(o_n[None, :] == own[:, None], float("inf"), b_w)
    b_w = tl.where(o_n[None, :] > own[:, None], float("-inf"), b_w)
    p_w = weights + ((i_b * KV + i_kv) * L + o_l)[:, None] * N + o_n[None, :]
    tl.store(p_w, b_w, mask=(o_l < L)[:, None] & (o_n < N)[None, :])


def block_weights(
    q: Tensor,
    means: Tensor,
    lse: Tensor,
    *,
    position: int,
    block: int,
    scale: float,
    first: int = 0,
    last: int = 1,
) -> Tensor:
    """Sum the weights that query heads of a KV head give to blocks, ready to choose the largest.

    Scores keep the digits of float32, whatever the dtypes.

    Args:
        q: Queries, [B, H, L, D]; any strides but the last.
        means: Mean keys of full blocks, [B, KV, M, D], like q.
        lse: Log-sum-exps of the scaled scores of all blocks that a query sees, [B, H, L] float32.
        position: Position of the first query.
        block: Tokens of a block.
        scale: Factor on the scores, above 0.
        first: First blocks of the text that are always chosen.
        last: Last blocks, the own one among them, that are always chosen.

    Returns:
        [B, KV, L, blocks begun at the last query] in float32: infinity for the own block, 3e38 for
        what is always chosen, minus infinity for blocks that lie ahead.
    """
    B, H, L, D = q.shape
    KV, M = means.shape[1:3]
    N = (position + L - 1) // block + 1
    weights = torch.empty(B, KV, L, N, dtype=torch.float32, device=q.device)
    q, means = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, means))
    block_weights_kernel[(triton.cdiv(L, _QUERIES), triton.cdiv(N, _BLOCKS), B * KV)](
        q,
        means,
        lse.contiguous(),
        weights,
        q_strides=q.stride()[:3],
        means_strides=means.stride()[:3],
        L=L,
        M=M,
        N=N,
        position=position,
        block=block,
        first=first,
        last=last,
        scale=scale,
        KV=KV,
        REP=H // KV,
        D=D,
        BLOCK_Q=_QUERIES,
        BLOCK_N=_BLOCKS,
        BLOCK_D=max(16, triton.next_power_of_2(D)),
        # Three products of tf32 have almost the digits of float32.
        PRECISION="tf32x3",
        num_warps=4,
    )
    return weights
