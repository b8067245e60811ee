"""One decoding step for a CUDA graph: what changes from step to step is read from device memory.

`row` [8] int64 describes a layer's memory: the addresses of core_k, core_v, raw_k and raw_v, then
the elements from one KV head to the next in the core and in the raw buffers, then two zeros.
`cursor` [2] int64: the position p of the token now decoded and the position of raw slot 0. The
buffers are [B, KV, capacity, D] with tokens D apart and the batch KV heads apart. So one captured
graph serves every step and every memory. The attention is that of cca_kernels.decoding.
"""

import triton
import triton.language as tl
from torch import Tensor

from cca_kernels.decode_primitives import arrive_and_merge, scan_row, scan_rows
from cca_kernels.decoding import DecodeWorkspace, decode_workspace
from cca_kernels.primitives import LOG2_E, visible_groups

__all__ = ["append_step", "decode_step", "decode_workspace"]

_APPEND_WARPS = 4


@triton.jit
def _buffer(base, row, index: tl.constexpr, offset):
    """Make the pointer that a memory's row holds, `offset` elements on, of the type of base.

    The compiler loads sixteen bytes at a time only from where it knows them aligned, and forgets
    what it knew of an integer that becomes a pointer. So the pointer is the argument `base` moved
    by a multiple of sixteen bytes; buffers, base and offsets are all so aligned.
    """
    UNIT: tl.constexpr = 128 // base.dtype.element_ty.primitive_bitwidth  # elements in 16 bytes
    moved = (tl.load(row + index) >> 4) - (base.to(tl.int64) >> 4)
    return base + (moved + offset // UNIT) * UNIT


@triton.jit
def _rotate(p_x, mask, b_cos, b_sin, o_d, D: tl.constexpr):
    """Turn heads by their position; products are rounded where torch rounds them."""
    ROUND: tl.constexpr = b_cos.dtype
    b_x = tl.load(p_x + o_d, mask=mask, other=0.0)
    b_half = tl.load(p_x + (o_d + D // 2) % D, mask=mask, other=0.0)
    b_a = (b_x.to(tl.float32) * b_cos.to(tl.float32)).to(ROUND).to(tl.float32)
    b_b = (b_half.to(tl.float32) * b_sin.to(tl.float32)).to(ROUND).to(tl.float32)
    return (b_a + b_b).to(b_x.dtype)


@triton.jit
def append_step_kernel(
    qkv,
    cos,
    sin,
    row,
    cursor,
    q,
    scale,
    KV: tl.constexpr,
    REP: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_b, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    DTYPE: tl.constexpr = qkv.dtype.element_ty
    p, raw_position = tl.load(cursor), tl.load(cursor + 1)
    o_h, o_d = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_D)
    m_d = o_d < D
    m_hd = (o_h < REP)[:, None] & m_d[None, :]
    b_cos = tl.load(cos + o_d, mask=m_d, other=0.0)
    b_sin = tl.load(sin + o_d, mask=m_d, other=0.0)

    qkv += i_b * (KV * REP + 2 * KV) * D
    o_q = (i_h * REP + o_h)[:, None] * D
    b_q = _rotate(qkv + o_q, m_hd, b_cos[None, :], b_sin[None, :], o_d[None, :], D)
    tl.store(q + i_b * KV * REP * D + o_q + o_d[None, :], b_q, mask=m_hd)
    b_k = _rotate(qkv + (KV * REP + i_h) * D, m_d, b_cos, b_sin, o_d, D)
    b_v = tl.load(qkv + (KV * REP + KV + i_h) * D + o_d, mask=m_d, other=0.0)

    core_stride, raw_stride = tl.load(row + 4), tl.load(row + 5)
    o_raw = (i_b * KV + i_h) * raw_stride
    raw_k, raw_v = _buffer(q, row, 2, o_raw), _buffer(q, row, 3, o_raw)
    slot = p - raw_position
    tl.store(raw_k + slot * D + o_d, b_k, mask=m_d)
    tl.store(raw_v + slot * D + o_d, b_v, mask=m_d)

    if (p + 1) % G == 0:
        b_a = tl.sum(b_q.to(tl.float32), axis=0) / REP  # [D], rows past REP are zero
        b_a = b_a.to(DTYPE).to(tl.float32) * (scale * LOG2_E)
        o_g = tl.arange(0, BLOCK_G)
        # The newest token comes from registers: its store need not be visible yet.
        m_gd = (o_g < G - 1)[:, None] & m_d[None, :]
        newest = (o_g == G - 1)[:, None]
        o_kv = (slot - (G - 1) + o_g)[:, None] * D + o_d[None, :]
        g_k = tl.load(raw_k + o_kv, mask=m_gd, other=0.0)
        g_v = tl.load(raw_v + o_kv, mask=m_gd, other=0.0)
        g_k = tl.where(newest, b_k[None, :], g_k).to(tl.float32)
        g_v = tl.where(newest, b_v[None, :], g_v).to(tl.float32)
        g_s = tl.sum(g_k * b_a[None, :], axis=1)
        g_s = tl.where(o_g < G, g_s, float("-inf"))
        g_w = tl.exp2(g_s - tl.max(g_s, axis=0))
        g_w = g_w / tl.sum(g_w, axis=0)
        o_core = (i_b * KV + i_h) * core_stride
        core_k, core_v = _buffer(q, row, 0, o_core), _buffer(q, row, 1, o_core)
        o_m = ((p + 1) // G - 1) * D + o_d
        tl.store(core_k + o_m, tl.sum(g_w[:, None] * g_k, axis=0).to(DTYPE), mask=m_d)
        tl.store(core_v + o_m, tl.sum(g_w[:, None] * g_v, axis=0).to(DTYPE), mask=m_d)


@triton.jit
def decode_step_kernel(
    q,
    row,
    cursor,
    out,
    part_o,
    part_stats,
    counters,
    scale,
    KV: tl.constexpr,
    REP: tl.constexpr,
    G: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
    MERGE_R: tl.constexpr,
    MERGE_S: tl.constexpr,
):
    i_split, i_r, i_bh = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    p, raw_position = tl.load(cursor), tl.load(cursor + 1)
    visible = visible_groups(p, G, W)
    cores = visible.to(tl.int32)
    raws = (p + 1 - visible * G).to(tl.int32)
    used = tl.minimum(tl.cdiv(cores, BLOCK_K) + tl.cdiv(raws, BLOCK_K), SPLITS)
    # More splits than blocks: nobody waits for the rest.
    if i_split < used:
        o_d = tl.arange(0, BLOCK_D)
        o_core = i_bh * tl.load(row + 4)
        o_raw = i_bh * tl.load(row + 5) + (visible * G - raw_position) * D
        core_k, core_v = _buffer(q, row, 0, o_core), _buffer(q, row, 1, o_core)
        raw_k, raw_v = _buffer(q, row, 2, o_raw), _buffer(q, row, 3, o_raw)
        if BLOCK_R == 1:
            b_q = tl.load(q + i_bh * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
            b_max, b_sum, b_o = scan_row(
                b_q * (scale * LOG2_E), core_k, core_v, raw_k, raw_v, D, D, D, D,
                cores, raws, i_split, SPLITS, D, BLOCK_K, BLOCK_D, STAGES,
            )  # fmt: skip
        else:
            o_r = i_r * BLOCK_R + tl.arange(0, BLOCK_R)
            m_q = (o_r < REP)[:, None] & (o_d < D)[None, :]
            b_q = tl.load(q + (i_bh * REP + o_r[:, None]) * D + o_d[None, :], mask=m_q, other=0.0)
            all_rows = tl.zeros([BLOCK_R], tl.int32)
            b_max, b_sum, b_o = scan_rows(
                b_q, all_rows + cores, all_rows, all_rows + raws, core_k, core_v, raw_k, raw_v,
                D, D, D, D, cores, raws, scale * LOG2_E, i_split, SPLITS, D,
                BLOCK_R, BLOCK_K, BLOCK_D, STAGES,
            )  # fmt: skip
        i_tile = i_bh * tl.num_programs(1) + i_r
        arrive_and_merge(
            b_max, b_sum, b_o, part_o, part_stats, counters, out, part_stats, 1, i_bh, i_r, i_tile,
            i_split, used, False, REP, SPLITS, D, BLOCK_R, BLOCK_D, MERGE_R, MERGE_S,
        )  # fmt: skip


def _aligned(q: Tensor, head_dim: int) -> None:
    """Check what the pointers of a row rely on."""
    if q.data_ptr() % 16 or head_dim * q.element_size() % 16:
        raise ValueError(
            f"expected queries and heads in units of 16 bytes, got head dim {head_dim}"
        )


def append_step(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    row: Tensor,
    cursor: Tensor,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    group_size: int,
    scale: float,
    out: Tensor | None = None,
) -> Tensor:
    """Rotate a new token, write its key and value, and fold the group that it ends, if any.

    Args:
        qkv: Projections of one new token a row of the batch, [B, (H + 2 KV) * D], contiguous: the
            query heads, then the keys, then the values; in the dtype of the buffers.
        cos: Cosines of its position as cca_models.rope makes them, [D], in the dtype of qkv or
            float32.
        sin: Sines, like cos.
        row: The layer's memory, [8] int64; see above.
        cursor: Position of the token and of raw slot 0, [2] int64.
        heads: Query heads, H.
        kv_heads: KV heads.
        head_dim: D, a multiple of 16 bytes.
        group_size: Tokens per group, G.
        scale: Factor on the scores.
        out: Where the rotated queries go, [B, H, 1, D], contiguous; a new tensor by default.

    Returns:
        The rotated queries.
    """
    B = qkv.shape[0]
    q = qkv.new_empty(B, heads, 1, head_dim) if out is None else out
    _aligned(q, head_dim)
    append_step_kernel[(B, kv_heads)](
        qkv,
        cos,
        sin,
        row,
        cursor,
        q,
        scale=scale,
        KV=kv_heads,
        REP=heads // kv_heads,
        G=group_size,
        D=head_dim,
        BLOCK_H=triton.next_power_of_2(heads // kv_heads),
        BLOCK_G=triton.next_power_of_2(group_size),
        BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        num_warps=_APPEND_WARPS,
    )
    return q


def decode_step(
    q: Tensor,
    row: Tensor,
    cursor: Tensor,
    out: Tensor,
    *,
    kv_heads: int,
    head_dim: int,
    group_size: int,
    window: int,
    scale: float,
    workspace: DecodeWorkspace,
) -> Tensor:
    """Attend from the token at the cursor to what it sees of a memory.

    Args:
        q: Rotated queries, [B, H, 1, D], contiguous.
        row: The layer's memory, [8] int64; see above.
        cursor: Position of the token and of raw slot 0, [2] int64.
        out: Where the output goes, B * H * D elements, contiguous.
        kv_heads: KV heads.
        head_dim: D, a multiple of 16 bytes.
        group_size: Tokens per group, G.
        window: Raw tokens that every query sees at least, W.
        scale: Factor on the scores.
        workspace: From decode_workspace with one query a sequence.

    Returns:
        out.
    """
    _aligned(q, head_dim)
    B, H = q.shape[:2]
    plan = workspace.plan
    rows = H // kv_heads
    decode_step_kernel[(plan["SPLITS"], triton.cdiv(rows, plan["BLOCK_R"]), B * kv_heads)](
        q,
        row,
        cursor,
        out,
        workspace.part_o,
        workspace.part_stats,
        workspace.counters,
        scale=scale,
        KV=kv_heads,
        REP=rows,
        G=group_size,
        W=window,
        D=head_dim,
        **plan,
    )
    return out
