"""Rotary positions on the output of one merged projection, written to where it is needed.

Shapes: qkv [B * L, (H + 2 * KV) * D], heads of q, then of k, then of v; cos, sin [L, D];
q [B, H, L, D] is written anew, k and v [B, KV, L, D] straight into the memory's buffers (any
strides, D contiguous). A program takes one head of a few tokens; the heads of the same tokens run
side by side so that whole rows of qkv are read at a time.

The tables are those of a rotation in halves: y = x * cos + roll(x, D / 2) * sin, the sign of the
rotation lies in the sine's first half. Only their first halves' cosines and both sines are read.
"""

import triton
import triton.language as tl
from torch import Tensor

_TOKENS = 32


@triton.jit
def rotary_fwd_kernel(
    qkv,
    cos,
    sin,
    q,
    k,
    v,
    qkv_stride,
    q_strides,
    k_strides,
    v_strides,
    L,
    H: tl.constexpr,
    KV: tl.constexpr,
    D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    i_h, i_b = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    HALF: tl.constexpr = D // 2
    o_l = tl.program_id(1).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    o_d = tl.arange(0, BLOCK_HALF)
    m = (o_l < L)[:, None] & (o_d < HALF)[None, :]
    p_x = qkv + (i_b * L + o_l)[:, None] * qkv_stride + i_h * D + o_d[None, :]
    b_a = tl.load(p_x, mask=m, other=0.0)  # [L, D / 2]
    b_b = tl.load(p_x + HALF, mask=m, other=0.0)
    if i_h >= H + KV:
        p_y = v + i_b * v_strides[0] + (i_h - H - KV) * v_strides[1] + o_l[:, None] * v_strides[2]
        tl.store(p_y + o_d[None, :], b_a, mask=m)
        tl.store(p_y + HALF + o_d[None, :], b_b, mask=m)
    else:
        p_t = o_l[:, None] * D + o_d[None, :]
        b_cos = tl.load(cos + p_t, mask=m, other=0.0).to(tl.float32)
        b_sin = tl.load(sin + p_t + HALF, mask=m, other=0.0).to(tl.float32)
        b_c, b_d = b_a.to(tl.float32), b_b.to(tl.float32)
        b_left = (b_c * b_cos - b_d * b_sin).to(q.dtype.element_ty)
        b_right = (b_d * b_cos + b_c * b_sin).to(q.dtype.element_ty)
        if i_h < H:
            p_y = q + i_b * q_strides[0] + i_h * q_strides[1] + o_l[:, None] * q_strides[2]
        else:
            p_y = k + i_b * k_strides[0] + (i_h - H) * k_strides[1] + o_l[:, None] * k_strides[2]
        tl.store(p_y + o_d[None, :], b_left, mask=m)
        tl.store(p_y + HALF + o_d[None, :], b_right, mask=m)


def rotary_fwd(qkv: Tensor, cos: Tensor, sin: Tensor, *, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Split a projection into heads, turn queries and keys, and write all three.

    Args:
        qkv: The merged projection's output, [B * L, (H + 2 * KV) * D].
        cos: Cosines, [L, D], contiguous.
        sin: Sines like cos, negative in the first half.
        q: Where queries go, [B, H, L, D].
        k: Where keys go, [B, KV, L, D].
        v: Where values go, like k.
    """
    B, H, L, D = q.shape
    KV = k.shape[1]
    if not L:
        return
    rotary_fwd_kernel[(H + 2 * KV, triton.cdiv(L, _TOKENS), B)](
        qkv, cos, sin, q, k, v,
        qkv_stride=qkv.stride(0),
        q_strides=q.stride()[:3], k_strides=k.stride()[:3], v_strides=v.stride()[:3],
        L=L, H=H, KV=KV, D=D,
        BLOCK_L=_TOKENS, BLOCK_HALF=triton.next_power_of_2(D // 2), num_warps=4,
    )  # fmt: skip
