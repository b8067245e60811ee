"""Matrix times vector for decoding: weights are streamed once, everything around is in the kernel.

y[b, n] = sum_k weight[n, k] * x[b, k] with, each where asked for, RMS norm of x before it, bias,
silu(gate) * up, and the addition of a residual after it. The norm's factor is one number a row, so
it multiplies the finished sum: no program waits for the norm before it loads weights.

A program takes BLOCK_N rows of the weights (of a gated projection BLOCK_N of each half) and walks
over K, loading the next tile before it uses the present one. The sum over K is taken once, at the
end, in fp32. Batch rows are the fastest axis of the grid: their programs find the weights in L2.
Programs are many and short, so that the last ones to finish leave few multiprocessors idle.

With `pdl` (Hopper and later) a kernel starts while the one before it finishes: it loads its first
weights, which nobody writes, and only then waits for what the other has written.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from cca_kernels.devices import architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class GemvTile:
    """How a matrix is cut: weight rows of a program, columns at a time, warps."""

    block_n: int
    block_k: int
    num_warps: int


@triton.jit
def gemv_fwd_kernel(
    x,
    weight,
    norm,
    bias,
    residual,
    out,
    x_stride,
    residual_stride,
    out_stride,
    eps,
    B,
    N,
    K,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    i_b, i_n = (tl.program_id(0) % B).to(tl.int64), tl.program_id(0) // B
    o_n = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k = tl.arange(0, BLOCK_K)
    m_n = o_n < N
    m_w = m_n[:, None] & (o_k < K)[None, :]
    p_w = weight + o_n.to(tl.int64)[:, None] * K + o_k[None, :]
    p_up = p_w + N.to(tl.int64) * K
    b_w = tl.load(p_w, mask=m_w, other=0.0)  # [N, K]
    b_acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    b_square = tl.zeros([BLOCK_K], tl.float32)
    if GATED:
        b_up = tl.load(p_up, mask=m_w, other=0.0)
        b_acc_up = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    for i_k in range(0, K, BLOCK_K):
        m_k = i_k + o_k < K
        m_next = m_n[:, None] & (i_k + BLOCK_K + o_k < K)[None, :]
        b_next = tl.load(p_w + i_k + BLOCK_K, mask=m_next, other=0.0)
        b_x = tl.load(x + i_b * x_stride + i_k + o_k, mask=m_k, other=0.0).to(tl.float32)
        if HAS_NORM:
            b_square += b_x * b_x
            b_x *= tl.load(norm + i_k + o_k, mask=m_k, other=0.0).to(tl.float32)
        b_acc += b_w.to(tl.float32) * b_x[None, :]
        b_w = b_next
        if GATED:
            b_next_up = tl.load(p_up + i_k + BLOCK_K, mask=m_next, other=0.0)
            b_acc_up += b_up.to(tl.float32) * b_x[None, :]
            b_up = b_next_up
    b_y = tl.sum(b_acc, axis=1)  # [N]
    if HAS_NORM:
        b_factor = tl.rsqrt(tl.sum(b_square, axis=0) / K + eps)
        b_y *= b_factor
    if HAS_BIAS:
        b_y += tl.load(bias + o_n, mask=m_n, other=0.0).to(tl.float32)
    if GATED:
        b_z = tl.sum(b_acc_up, axis=1)
        if HAS_NORM:
            b_z *= b_factor
        if HAS_BIAS:
            b_z += tl.load(bias + N + o_n, mask=m_n, other=0.0).to(tl.float32)
        b_y = b_y * tl.sigmoid(b_y) * b_z
    if HAS_RESIDUAL:
        p_residual = residual + i_b * residual_stride + o_n
        b_y += tl.load(p_residual, mask=m_n, other=0.0).to(tl.float32)
    tl.store(out + i_b * out_stride + o_n, b_y.to(out.dtype.element_ty), mask=m_n)


@lru_cache(maxsize=64)
def gemv_tile(
    rows: int, columns: int, *, gated: bool, itemsize: int, device: torch.device
) -> GemvTile:
    """Choose a tile.

    Args:
        rows: Outputs, N.
        columns: Inputs, K.
        gated: Whether two rows of weights make one output.
        itemsize: Bytes of a weight.
        device: Where it runs.
    """
    if architecture(device) == "interpreter":
        # Its programs run one after the other: few and large ones.
        return GemvTile(block_n=128, block_k=256, num_warps=4)
    block_k = min(triton.next_power_of_2(columns), 4096 // itemsize)
    block_n = 2 if gated else 4
    if block_k <= 1024 and rows >= 8192:
        # Short rows: more of them, or a program is nothing but beginning and end.
        block_n *= 2
    return GemvTile(block_n=block_n, block_k=block_k, num_warps=4)


def gemv_fwd(
    x: Tensor,
    weight: Tensor,
    *,
    out: Tensor,
    norm: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gated: bool = False,
    pdl: bool = False,
    tile: GemvTile | None = None,
) -> Tensor:
    """Multiply a few vectors with a matrix.

    Args:
        x: Vectors, [B, K].
        weight: The matrix, [N, K] contiguous, or [2 * N, K] if gated: gates, then ups.
        out: Where to, [B, N], of any dtype; may be `residual`, must not be `x`.
        norm: Weights of an RMS norm that x goes through first, [K].
        eps: Of that norm.
        bias: Added to the products, one per row of `weight`.
        residual: Added at the end, [B, N].
        gated: Give silu(gate) * up.
        pdl: Start before the previous kernel has ended; its predecessor and successor on the
            stream may be any kernels.
        tile: Another tile than gemv_tile's.

    Returns:
        out.
    """
    B, K = x.shape
    N = weight.shape[0] // 2 if gated else weight.shape[0]
    t = tile or gemv_tile(N, K, gated=gated, itemsize=weight.element_size(), device=x.device)
    launch = {"launch_pdl": True} if pdl else {}
    gemv_fwd_kernel[(B * triton.cdiv(N, t.block_n),)](
        x,
        weight,
        norm if norm is not None else x,
        bias if bias is not None else x,
        residual if residual is not None else x,
        out,
        x_stride=x.stride(0),
        residual_stride=residual.stride(0) if residual is not None else 0,
        out_stride=out.stride(0),
        eps=eps,
        B=B,
        N=N,
        K=K,
        HAS_NORM=norm is not None,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        GATED=gated,
        BLOCK_N=t.block_n,
        BLOCK_K=t.block_k,
        PDL=pdl,
        num_warps=t.num_warps,
        **launch,
    )
    return out
