"""Device functions of the decoding kernels: scan a split of the keys, merge what the splits found.

Shapes: keys and values [keys, D] of one KV head, core tokens first, then raw tokens; rows are the
queries that share the KV head. The launchers: cca_kernels/decoding.py, cca_kernels/decode_step.py.
"""

import triton
import triton.language as tl

from cca_kernels.primitives import LN_2

# Where a running maximum starts: finite, so that a difference of two is never NaN.
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def scan_row(
    b_q,
    core_k,
    core_v,
    raw_k,
    raw_v,
    core_k_stride,
    core_v_stride,
    raw_k_stride,
    raw_v_stride,
    cores,
    raws,
    i_split,
    SPLITS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Attend from one query, b_q [BLOCK_D] already scaled, to this split's blocks of keys.

    Every row of the tile keeps a softmax of its own, so the loop needs no exchange between warps;
    they are merged at the end. With one query a tensor core would work for one row in sixteen.

    Returns:
        The running maximum in base 2, the sum and the unnormalised output, two scalars and
        [BLOCK_D].
    """
    o_k, o_d = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    m_d = o_d < D
    core_blocks = tl.cdiv(cores, BLOCK_K)
    blocks = core_blocks + tl.cdiv(raws, BLOCK_K)
    b_max = tl.full([BLOCK_K], LOWEST, tl.float32)
    b_sum = tl.zeros([BLOCK_K], tl.float32)
    b_o = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    for i in tl.range(i_split, blocks, SPLITS, num_stages=STAGES):
        in_core = i < core_blocks
        o_n = tl.where(in_core, i, i - core_blocks) * BLOCK_K + o_k
        m_n = o_n < tl.where(in_core, cores, raws)
        m_kv = m_n[:, None] & m_d[None, :]
        o_n = o_n.to(tl.int64)[:, None]
        p_k = tl.where(in_core, core_k, raw_k)
        p_v = tl.where(in_core, core_v, raw_v)
        p_k += o_n * tl.where(in_core, core_k_stride, raw_k_stride) + o_d[None, :]
        p_v += o_n * tl.where(in_core, core_v_stride, raw_v_stride) + o_d[None, :]
        b_k = tl.load(p_k, mask=m_kv, other=0.0).to(tl.float32)
        b_v = tl.load(p_v, mask=m_kv, other=0.0).to(tl.float32)
        b_s = tl.sum(b_k * b_q[None, :], axis=1)
        b_s = tl.where(m_n, b_s, float("-inf"))
        b_new = tl.maximum(b_max, b_s)
        b_keep = tl.exp2(b_max - b_new)
        b_p = tl.exp2(b_s - b_new)
        b_sum = b_sum * b_keep + b_p
        b_o = b_o * b_keep[:, None] + b_p[:, None] * b_v
        b_max = b_new
    top = tl.max(b_max, axis=0)
    b_keep = tl.exp2(b_max - top)
    return top, tl.sum(b_sum * b_keep, axis=0), tl.sum(b_o * b_keep[:, None], axis=0)


@triton.jit
def scan_rows(
    b_q,
    row_cores,
    row_raw_start,
    row_raw_end,
    core_k,
    core_v,
    raw_k,
    raw_v,
    core_k_stride,
    core_v_stride,
    raw_k_stride,
    raw_v_stride,
    cores,
    raws,
    scale_log2,
    i_split,
    SPLITS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Attend from the rows b_q [BLOCK_R, BLOCK_D] to this split's blocks of keys.

    A row sees the core tokens below row_cores and the raw tokens row_raw_start .. row_raw_end - 1,
    counted from the first raw token that any row sees.

    Returns:
        The running maximum in base 2, the sum and the unnormalised output, [BLOCK_R], [BLOCK_R],
        [BLOCK_R, BLOCK_D].
    """
    o_k, o_d = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    m_d = o_d < D
    core_blocks = tl.cdiv(cores, BLOCK_K)
    blocks = core_blocks + tl.cdiv(raws, BLOCK_K)
    b_max = tl.full([BLOCK_R], LOWEST, tl.float32)
    b_sum = tl.zeros([BLOCK_R], tl.float32)
    b_o = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for i in tl.range(i_split, blocks, SPLITS, num_stages=STAGES):
        in_core = i < core_blocks
        o_n = tl.where(in_core, i, i - core_blocks) * BLOCK_K + o_k
        m_kv = (o_n < tl.where(in_core, cores, raws))[:, None] & m_d[None, :]
        row_start = tl.where(in_core, 0, row_raw_start)
        row_end = tl.where(in_core, row_cores, row_raw_end)
        seen = (o_n[None, :] >= row_start[:, None]) & (o_n[None, :] < row_end[:, None])
        o_n = o_n.to(tl.int64)[:, None]
        p_k = tl.where(in_core, core_k, raw_k)
        p_v = tl.where(in_core, core_v, raw_v)
        p_k += o_n * tl.where(in_core, core_k_stride, raw_k_stride) + o_d[None, :]
        p_v += o_n * tl.where(in_core, core_v_stride, raw_v_stride) + o_d[None, :]
        b_k = tl.load(p_k, mask=m_kv, other=0.0)
        b_v = tl.load(p_v, mask=m_kv, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale_log2
        b_s = tl.where(seen, b_s, float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_s, axis=1))
        b_keep = tl.exp2(b_max - b_new)
        b_p = tl.exp2(b_s - b_new[:, None])
        b_sum = b_sum * b_keep + tl.sum(b_p, axis=1)
        b_o = b_o * b_keep[:, None]
        b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o, input_precision="ieee")
        b_max = b_new
    return b_max, b_sum, b_o


@triton.jit
def arrive_and_merge(
    b_max,
    b_sum,
    b_o,
    part_o,
    part_stats,
    counters,
    o,
    lse,
    L,
    i_bh,
    i_r,
    i_tile,
    i_split,
    used,
    WITH_LSE: tl.constexpr,
    REP: tl.constexpr,
    SPLITS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MERGE_R: tl.constexpr,
    MERGE_S: tl.constexpr,
):
    """Leave a partial softmax; the last of the `used` programs of a tile merges and stores all.

    b_max, b_sum [BLOCK_R] and b_o [BLOCK_R, BLOCK_D] are the program's part; for BLOCK_R = 1 they
    lack that axis. MERGE_R is the rows that the workspace holds of each split, MERGE_S the number
    of splits that are merged at a time.
    """
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    if BLOCK_R == 1:
        o_r = 0
        o_o = o_d
        m_r = REP * L > 0
        m_o = m_d
        b_scale = b_sum
    else:
        o_r = tl.arange(0, BLOCK_R)
        o_o = o_d[None, :]
        m_r = i_r * BLOCK_R + o_r < REP * L
        m_o = m_r[:, None] & m_d[None, :]
        b_scale = b_sum[:, None]
    if SPLITS == 1:
        o_row = i_r * BLOCK_R + o_r
        o_lse = (i_bh * REP + o_row // L) * L + o_row % L
        p_o = o + (o_lse if BLOCK_R == 1 else o_lse[:, None]) * D + o_o
        tl.store(p_o, (b_o / b_scale).to(o.dtype.element_ty), mask=m_o)
        if WITH_LSE:
            tl.store(lse + o_lse, (b_max + tl.log2(b_sum)) * LN_2, mask=m_r)
    else:
        o_part = (i_tile * SPLITS + i_split) * MERGE_R + o_r
        tl.store(
            part_o + (o_part if BLOCK_R == 1 else o_part[:, None]) * BLOCK_D + o_o, b_o, mask=m_o
        )
        tl.store(part_stats + o_part * 2, b_max, mask=m_r)
        tl.store(part_stats + o_part * 2 + 1, b_sum, mask=m_r)
        # The barrier orders every thread's stores before the one release below.
        tl.debug_barrier()
        arrived = tl.atomic_add(counters + i_tile, 1, sem="acq_rel", scope="gpu")
        if arrived == used - 1:
            tl.debug_barrier()
            tl.store(counters + i_tile, 0)  # as found, for the next launch
            o_m = tl.arange(0, MERGE_R)
            o_line = i_r * BLOCK_R + o_m
            o_out = (i_bh * REP + o_line // L) * L + o_line % L
            m_m = o_line < REP * L
            m_sum = tl.full([MERGE_R], LOWEST, tl.float32)
            l_sum = tl.zeros([MERGE_R], tl.float32)
            o_sum = tl.zeros([MERGE_R, BLOCK_D], tl.float32)
            for start in range(0, SPLITS, MERGE_S):
                o_s = start + tl.arange(0, MERGE_S)
                m_sr = (o_s < used)[:, None] & m_m[None, :]
                o_sr = (i_tile * SPLITS + o_s)[:, None] * MERGE_R + o_m[None, :]
                # Past the L1 cache: other programs wrote these.
                p_sr = part_o + o_sr[:, :, None] * BLOCK_D + o_d[None, None, :]
                s_o = tl.load(
                    p_sr,
                    mask=m_sr[:, :, None] & m_d[None, None, :],
                    other=0.0,
                    cache_modifier=".cg",
                )
                s_max = tl.load(
                    part_stats + o_sr * 2, mask=m_sr, other=LOWEST, cache_modifier=".cg"
                )
                s_sum = tl.load(
                    part_stats + o_sr * 2 + 1, mask=m_sr, other=0.0, cache_modifier=".cg"
                )
                new = tl.maximum(m_sum, tl.max(s_max, axis=0))  # [MERGE_R]
                keep = tl.exp2(m_sum - new)
                weight = tl.exp2(s_max - new[None, :])  # [MERGE_S, MERGE_R]
                l_sum = l_sum * keep + tl.sum(s_sum * weight, axis=0)
                o_sum = o_sum * keep[:, None] + tl.sum(s_o * weight[:, :, None], axis=0)
                m_sum = new
            o_sum = o_sum / l_sum[:, None]
            p_o = o + o_out[:, None] * D + o_d[None, :]
            tl.store(p_o, o_sum.to(o.dtype.element_ty), mask=m_m[:, None] & m_d[None, :])
            if WITH_LSE:
                tl.store(lse + o_out, (m_sum + tl.log2(l_sum)) * LN_2, mask=m_m)
