"""Attention to listed tiles of keys, to a window, and to listed tokens, in one softmax.

One program attends from a tile of queries of one head, or from the heads of a KV head at one query.
Tiles of keys come from a list, or are all that a window reaches; those in which every query sees
every key are not masked. Single tokens ("columns") follow, which the tiles do not show.

Query l stands at position + l, key j at key_start + j * key_step, column c at c. With the distance
d between query and key, a query sees
    the keys of its tiles  with 0 <= d < window, where table and choice allow;
    the columns            with d >= 0 that the tiles do not show: those that the table lacks, or
                           without a table, those with d >= window.

Shapes: q [B, H, L, D]; k, v [B, KV, S, D]; H is a multiple of KV. Lists: cca_kernels/tile_lists.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cca_kernels.primitives import LN_2, LOG2_E, MASKED, start_rows
from cca_kernels.tile_lists import LEAST, TileLists, listed_tile
from cca_kernels.tiles import Tile

# Longer than any text: no window.
_ENDLESS = 1 << 30


@triton.jit
def _load_rows(p, at, m_key, stride, D: tl.constexpr, BLOCK_D: tl.constexpr, MASK: tl.constexpr):
    """Load rows of keys or values, [BLOCK_K, BLOCK_D]."""
    o_d = tl.arange(0, BLOCK_D)
    p_x = p + at.to(tl.int64)[:, None] * stride + o_d[None, :]
    if MASK:
        return tl.load(p_x, mask=m_key[:, None] & (o_d < D)[None, :], other=0.0)
    if BLOCK_D == D:
        return tl.load(p_x)
    return tl.load(p_x, mask=(o_d < D)[None, :], other=0.0)


@triton.jit
def _take(
    b_q,
    b_m,
    b_l,
    b_o,
    b_k,
    b_v,
    seen,
    scale,
    MASK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Take a tile of keys into the softmax of a tile of rows."""
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
    if MASK:
        b_s = tl.where(seen, b_s, MASKED)
    b_new = tl.maximum(b_m, tl.max(b_s, 1))
    b_scale = scale * LOG2_E
    b_p = tl.exp2(b_s * b_scale - (b_new * b_scale)[:, None])
    b_alpha = tl.exp2((b_m - b_new) * b_scale)
    b_l = b_l * b_alpha + tl.sum(b_p, 1)
    b_o = b_o * b_alpha[:, None]
    b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o, input_precision=PRECISION)
    return b_new, b_l, b_o


# Not compiled anew for lengths that happen to be one or a multiple of sixteen.
@triton.jit(do_not_specialize=["L", "S", "F", "C", "position", "lead", "key_start", "window"])
def listed_fwd_kernel(
    q,
    k,
    v,
    o,
    lse,
    tiles,
    counts,
    table,
    choice,
    columns,
    far_k,
    far_v,
    cos,
    sin,
    q_strides,
    k_strides,
    v_strides,
    o_strides,
    tiles_strides,
    counts_strides,
    table_strides,
    choice_strides,
    columns_strides,
    far_k_strides,
    far_v_strides,
    H,
    L,
    S,
    F,
    C,
    position,
    lead,
    key_start,
    window,
    scale,
    REP: tl.constexpr,
    HEADS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEY_STEP: tl.constexpr,
    LISTED: tl.constexpr,
    TABLE: tl.constexpr,
    CHOICE_BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    TURNED: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # Long rows first: the last tiles see the most keys.
    i_q = tl.num_programs(0) - 1 - tl.program_id(0)
    i_bg = tl.program_id(1)
    i_b, i_g = (i_bg // (H // HEADS)).to(tl.int64), (i_bg % (H // HEADS)).to(tl.int64)
    i_kv = i_g * HEADS // REP
    o_r = tl.arange(0, BLOCK_Q)
    o_h = i_g * HEADS + o_r % HEADS
    o_l = i_q * QUERIES - lead + o_r // HEADS
    o_d, o_k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_K)
    m_d = o_d < D
    m_row = (o_r < QUERIES * HEADS) & (o_l >= 0) & (o_l < L)
    m_q = m_row[:, None] & m_d[None, :]
    p_q = q + i_b * q_strides[0] + o_h * q_strides[1] + o_l.to(tl.int64) * q_strides[2]
    b_q = tl.load(p_q[:, None] + o_d[None, :], mask=m_q, other=0.0)

    first = position + tl.maximum(i_q * QUERIES - lead, 0)
    last = position + tl.minimum(i_q * QUERIES - lead + QUERIES, L) - 1
    p_row = tl.minimum(tl.maximum(position + o_l, first), last)

    if LISTED:
        p_tiles = tiles + i_b * tiles_strides[0] + i_g * tiles_strides[1] + i_q * tiles_strides[2]
        p_counts = counts + i_b * counts_strides[0] + i_g * counts_strides[1]
        edges = tl.load(p_counts + i_q * counts_strides[2])
        count = tl.load(p_counts + i_q * counts_strides[2] + 1)
        start, late = 0, 0
    else:
        p_tiles = tiles
        begin = tl.cdiv(tl.maximum(first - window + 1 - key_start, 0), KEY_STEP)
        full_a = tl.cdiv(tl.maximum(last - window + 1 - key_start, 0), KEY_STEP)
        full_b = tl.minimum(tl.maximum(first - key_start + KEY_STEP, 0) // KEY_STEP, S)
        stop = tl.minimum(tl.maximum(last - key_start + KEY_STEP, 0) // KEY_STEP, S)
        stop = tl.cdiv(stop, BLOCK_K)
        start = tl.minimum(begin // BLOCK_K, stop)
        full_a = tl.minimum(tl.cdiv(full_a, BLOCK_K), stop)
        full_b = tl.maximum(full_b // BLOCK_K, full_a)
        # The diagonal first: it gives every row a real maximum.
        late = stop - full_b
        edges = late + full_a - start
        count = stop - start

    b_m, b_l, b_o = start_rows(BLOCK_Q, BLOCK_D)
    p_k = k + i_b * k_strides[0] + i_kv * k_strides[1]
    p_v = v + i_b * v_strides[0] + i_kv * v_strides[1]
    p_table = table + i_b * table_strides[0] + i_g * table_strides[1]
    p_choice = choice + i_b * choice_strides[0] + i_g * choice_strides[1]
    p_choice += o_l.to(tl.int64) * choice_strides[2]
    for n in tl.range(0, edges, num_stages=STAGES):
        if LISTED:
            i_k = tl.load(p_tiles + n)
        else:
            i_k = tl.where(n < late, start + count - late + n, start + n - late)
        at = i_k * BLOCK_K + o_k
        m_key = at < S
        b_k = _load_rows(p_k, at, m_key, k_strides[2], D, BLOCK_D, True)
        b_v = _load_rows(p_v, at, m_key, v_strides[2], D, BLOCK_D, True)
        far = p_row[:, None] - (key_start + at * KEY_STEP)[None, :]
        seen = (far >= 0) & (far < window) & m_key[None, :]
        if TABLE:
            seen &= tl.load(p_table + far, mask=seen, other=0) != 0
        if CHOICE_BLOCK:
            if CHOICE_BLOCK % BLOCK_K == 0:
                b_c = tl.load(p_choice + i_k // (CHOICE_BLOCK // BLOCK_K), mask=m_row, other=0)
                seen &= (b_c != 0)[:, None]
            else:
                p_c = p_choice[:, None] + (at // CHOICE_BLOCK)[None, :]
                seen &= tl.load(p_c, mask=seen & m_row[:, None], other=0) != 0
        b_m, b_l, b_o = _take(b_q, b_m, b_l, b_o, b_k, b_v, seen, scale, True, PRECISION)
    for n in tl.range(edges, count, num_stages=STAGES):
        i_k = tl.load(p_tiles + n) if LISTED else start + n - late
        at = i_k * BLOCK_K + o_k
        b_k = _load_rows(p_k, at, at, k_strides[2], D, BLOCK_D, False)
        b_v = _load_rows(p_v, at, at, v_strides[2], D, BLOCK_D, False)
        b_m, b_l, b_o = _take(b_q, b_m, b_l, b_o, b_k, b_v, 0, scale, False, PRECISION)

    if COLUMNS:
        if TURNED:
            p_turn = o_l.to(tl.int64)[:, None] * D + o_d[None, :]
            b_half = tl.load(p_q[:, None] + ((o_d + D // 2) % D)[None, :], mask=m_q, other=0.0)
            b_turned = b_q.to(tl.float32) * tl.load(cos + p_turn, mask=m_q, other=0.0)
            b_turned += b_half.to(tl.float32) * tl.load(sin + p_turn, mask=m_q, other=0.0)
            b_q = b_turned.to(b_q.dtype)
        p_columns = columns + i_b * columns_strides[0] + i_g * columns_strides[1]
        farthest = last if TABLE else last - window
        used = 0
        for c in range(0, C, 1024):
            o_c = c + tl.arange(0, 1024)
            b_c = tl.load(p_columns + o_c, mask=o_c < C, other=2147483647)
            used += tl.sum((b_c <= farthest).to(tl.int32), axis=0)
        p_k = far_k + i_b * far_k_strides[0] + i_kv * far_k_strides[1]
        p_v = far_v + i_b * far_v_strides[0] + i_kv * far_v_strides[1]
        for c in tl.range(0, used, BLOCK_K, num_stages=STAGES):
            at = tl.load(p_columns + c + o_k, mask=c + o_k < used, other=2147483647)
            m_key = at < F
            b_k = _load_rows(p_k, at, m_key, far_k_strides[2], D, BLOCK_D, True)
            b_v = _load_rows(p_v, at, m_key, far_v_strides[2], D, BLOCK_D, True)
            far = p_row[:, None] - at[None, :]
            seen = (far >= 0) & m_key[None, :]
            if TABLE:
                seen &= tl.load(p_table + far, mask=seen, other=1) == 0
            else:
                seen &= far >= window
            b_m, b_l, b_o = _take(b_q, b_m, b_l, b_o, b_k, b_v, seen, scale, True, PRECISION)

    # A row that sees nothing has its first maximum still, and garbage under it.
    sees = b_m > MASKED
    b_l = tl.where(sees, b_l, 1.0)
    b_o = tl.where(sees[:, None], b_o / b_l[:, None], 0.0)
    b_lse = tl.where(sees, b_m * scale + tl.log2(b_l) * LN_2, float("-inf"))
    p_o = o + i_b * o_strides[0] + o_h * o_strides[1] + o_l.to(tl.int64) * o_strides[2]
    tl.store(p_o[:, None] + o_d[None, :], b_o.to(o.dtype.element_ty), mask=m_q)
    tl.store(lse + (i_b * H + o_h) * L + o_l, b_lse, mask=m_row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Single tokens that queries see where their tiles do not show them.

    Attributes:
        places: Their positions, ascending, [B or 1, H or 1, C] int32, contiguous in its last axis.
            They are indices of k and v, too.
        k: Keys from position 0 on, [B, KV, F, D]; those of the tiles by default.
        v: Values, like k.
        turn: Cosines and sines by which queries are turned before they look at columns, in halves,
            each [L, D] float32; None if they are not turned.
    """

    places: Tensor
    k: Tensor | None = None
    v: Tensor | None = None
    turn: tuple[Tensor, Tensor] | None = None


def listed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    position: int,
    scale: float,
    key_start: int = 0,
    key_step: int = 1,
    window: int | None = None,
    lists: TileLists | None = None,
    table: Tensor | None = None,
    choice: Tensor | None = None,
    choice_block: int = 0,
    columns: Columns | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend from queries to listed tiles or a window, and to columns; see above.

    Tensors lie on one device, a CUDA one or the interpreter's. float64 is not supported, and there
    are no gradients.

    Args:
        q: Queries, [B, H, L, D].
        k: Keys, [B, KV, S, D]; any strides but the last.
        v: Values, like k.
        position: Position of the first query.
        scale: Factor on the scores, above 0.
        key_start: Position of the first key.
        key_step: Positions from key to key.
        window: Distances seen, W: 0 ... W - 1; all by default.
        lists: Tiles of keys; all that the window reaches by default.
        table: Whether a distance is seen, [B or 1, H or 1, at least position + L] booleans; with
            lists only, in which every tile with a distance that is not seen counts as masked.
        choice: Whether a query sees a block of keys, [B, H, L, blocks] booleans; like table.
        choice_block: Keys of such a block.
        columns: Single tokens.
        tile: Tile sizes without lists; chosen by default.

    Returns:
        The output [B, H, L, D] in the dtype of q, and the log-sum-exp of the scaled scores
        [B, H, L] in float32; 0 and -inf where a query sees nothing.

    Raises:
        ValueError: If table or choice come without lists, or columns without table and window.
    """
    B, H, L, D = q.shape
    KV, S = k.shape[1:3]
    if lists is None and (table is not None or choice is not None):
        raise ValueError("expected lists with a table or a choice, got none")
    if columns is not None and table is None and window is None:
        raise ValueError("expected a table or a window with columns, got neither")
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    # A step of decoding would leave most rows of a large tile empty.
    few = LEAST if L <= LEAST else 0
    chosen = lists.tile if lists else tile or listed_tile(q, rows=few)
    assert chosen is not None, "without rows and keys there is a tile"
    queries, heads = (lists.queries, lists.heads) if lists else (chosen.block_q, 1)
    lead = position % queries
    # Laid out as the layers behind want it: heads side by side in a token's row.
    o = torch.empty((B, L, H, D), dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.empty((B, H, L), dtype=torch.float32, device=q.device)
    far_k, far_v = (k, v) if columns is None or columns.k is None else (columns.k, columns.v)
    assert far_v is not None, "keys come with values"
    cos, sin = (columns.turn if columns else None) or (None, None)
    rows: dict[str, Any] = {
        "tiles": lists.tiles if lists else None,
        "counts": lists.counts if lists else None,
        "table": _bytes(table),
        "choice": _bytes(choice),
        "columns": columns.places if columns else None,
    }
    listed_fwd_kernel[(triton.cdiv(lead + L, queries), B * H // heads)](
        q,
        k,
        v,
        o,
        lse,
        # What is not there is never read.
        *(lse if row is None else row for row in (*rows.values(), far_k, far_v, cos, sin)),
        q_strides=q.stride()[:3],
        k_strides=k.stride()[:3],
        v_strides=v.stride()[:3],
        o_strides=o.stride()[:3],
        **{f"{name}_strides": _strides(row) for name, row in rows.items()},
        far_k_strides=far_k.stride()[:3],
        far_v_strides=far_v.stride()[:3],
        H=H,
        L=L,
        S=S,
        F=far_k.shape[2],
        C=0 if columns is None else columns.places.shape[-1],
        position=position,
        lead=lead,
        key_start=key_start,
        window=_ENDLESS if window is None else window,
        scale=scale,
        REP=H // KV,
        HEADS=heads,
        QUERIES=queries,
        KEY_STEP=key_step,
        LISTED=lists is not None,
        TABLE=table is not None,
        CHOICE_BLOCK=choice_block if choice is not None else 0,
        COLUMNS=columns is not None,
        TURNED=cos is not None,
        D=D,
        BLOCK_Q=chosen.block_q,
        BLOCK_K=chosen.block_k,
        BLOCK_D=max(16, triton.next_power_of_2(D)),
        STAGES=chosen.num_stages,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=chosen.num_warps,
    )
    return o, lse


def _bytes(x: Tensor | None) -> Tensor | None:
    """View booleans as bytes, contiguous in the last axis."""
    return None if x is None else (x if x.stride(-1) == 1 else x.contiguous()).view(torch.uint8)


def _strides(x: Tensor | None) -> tuple[int, int, int]:
    """Give strides of batch, heads and rows, 0 where one is for all."""
    if x is None:
        return 0, 0, 0
    batch, heads = (x.stride(axis) if x.shape[axis] > 1 else 0 for axis in (0, 1))
    return batch, heads, x.stride(2) if x.dim() == 4 else 0
