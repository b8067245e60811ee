"""What several kernels share: constants, who sees what, and the online softmax."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# Stands for minus infinity. A row whose first tile is all masked adds garbage under this maximum,
# which the first real score multiplies by exp2(-huge) = 0; a real infinity would make it NaN. It is
# a power of two: its product with the scale is exact, fused with the subtraction or not.
MASKED = tl.constexpr(-(2.0**100))


@triton.jit
def visible_groups(p, G, W):
    """Count the core tokens that position p sees, m(p) = max(0, (p + 1 - W) // G)."""
    return tl.maximum(p + 1 - W, 0) // G


@triton.jit
def start_rows(BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr):
    """Begin a softmax: maximum, sum and output of rows that have seen nothing."""
    b_m = tl.full([BLOCK_Q], MASKED, tl.float32)
    return b_m, tl.zeros([BLOCK_Q], tl.float32), tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)


@triton.jit
def finish(b_m, b_l, b_o, scale):
    """End a softmax: output and log-sum-exp, natural."""
    return b_o / b_l[:, None], b_m * scale + tl.log2(b_l) * LN_2


@triton.jit
def attend_tiles(
    b_q,
    b_m,
    b_l,
    b_o,
    k,
    v,
    k_stride,
    v_stride,
    start,
    stop,
    length,
    low,
    high,
    scale,
    D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
    MASK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Take the keys start .. stop - 1 into the softmax of a block of rows.

    With MASK a row sees the keys low <= key < high, and no key at or behind `length` is read;
    without, stop - start is a multiple of BLOCK_K and every row sees every key.
    """
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    o_k = tl.arange(0, BLOCK_K)
    for i_k in tl.range(start, stop, BLOCK_K, num_stages=STAGES):
        key = i_k + o_k
        at = key.to(tl.int64)
        p_k = k + at[None, :] * k_stride + o_d[:, None]
        p_v = v + at[:, None] * v_stride + o_d[None, :]
        if MASK:
            m_key = key < length
            b_k = tl.load(p_k, mask=m_key[None, :] & m_d[:, None], other=0.0)
            b_v = tl.load(p_v, mask=m_key[:, None] & m_d[None, :], other=0.0)
        elif BLOCK_D == D:
            b_k = tl.load(p_k)
            b_v = tl.load(p_v)
        else:
            b_k = tl.load(p_k, mask=m_d[:, None], other=0.0)
            b_v = tl.load(p_v, mask=m_d[None, :], other=0.0)
        b_s = tl.dot(b_q, b_k, input_precision=PRECISION)
        if MASK:
            seen = (key[None, :] >= low[:, None]) & (key[None, :] < high[:, None])
            b_s = tl.where(seen, b_s, MASKED)
        b_new = tl.maximum(b_m, tl.max(b_s, 1))
        b_scale = scale * LOG2_E
        b_p = tl.exp2(b_s * b_scale - (b_new * b_scale)[:, None])
        b_alpha = tl.exp2((b_m - b_new) * b_scale)
        b_l = b_l * b_alpha + tl.sum(b_p, 1)
        b_o = b_o * b_alpha[:, None]
        b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o, input_precision=PRECISION)
        b_m = b_new
    return b_m, b_l, b_o
