"""Backward of the prefill attention, the keys' side: one program makes dk and dv of one key block.

The queries that see a key are one range of positions, for a raw key at r and for core token c:

    raw    r <= p < (r // G + 1) * G + W - 1
    core   (c + 1) * G + W - 1 <= p

so one kernel serves both. It works on transposed scores [K, Q], whose weights are the left operand
of P^T dO as they stand. Shapes as in cca_kernels.api.attend; rows [B, H, 2, padded L] from
prefill_backward.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cca_kernels.descriptors import load_tile, through_descriptors, tile_descriptor
from cca_kernels.devices import architecture
from cca_kernels.primitives import LOG2_E
from cca_kernels.tiles import Table, Tile, tile_for

_TILES: Table = {
    "hopper": [
        (64, 2, Tile(block_q=32, block_k=128, num_warps=8, num_stages=3)),
        (128, 2, Tile(block_q=32, block_k=128, num_warps=8, num_stages=2)),
        (256, 2, Tile(block_q=32, block_k=64, num_warps=8, num_stages=2)),
        (128, 4, Tile(block_q=16, block_k=32, num_warps=8, num_stages=1)),
        (256, 4, Tile(block_q=16, block_k=16, num_warps=4, num_stages=1)),
    ],
    "ampere": [
        (64, 2, Tile(block_q=32, block_k=64, num_warps=4, num_stages=2)),
        (128, 2, Tile(block_q=32, block_k=64, num_warps=8, num_stages=2)),
        (256, 2, Tile(block_q=16, block_k=64, num_warps=8, num_stages=2)),
        (256, 4, Tile(block_q=16, block_k=32, num_warps=8, num_stages=1)),
    ],
    "ada": [
        (64, 2, Tile(block_q=32, block_k=64, num_warps=4, num_stages=2)),
        (128, 2, Tile(block_q=32, block_k=64, num_warps=8, num_stages=2)),
        (256, 2, Tile(block_q=16, block_k=32, num_warps=4, num_stages=1)),
        (256, 4, Tile(block_q=16, block_k=16, num_warps=4, num_stages=1)),
    ],
    "interpreter": [(1 << 30, 8, Tile(block_q=16, block_k=32, num_warps=4, num_stages=1))],
}
_TILES["blackwell"] = _TILES["ada"]  # the smallest, until one has been tuned

# Long ranges of queries are shared out until there are so many programs, or pieces are this short.
_PROGRAMS = 512
_SHORTEST_PIECE = 1024
_MOST_PIECES = 16


def query_pieces(L: int, programs: int) -> int:
    """Say into how many pieces the queries of a block of core tokens are cut."""
    return min(-(-_PROGRAMS // programs), -(-L // _SHORTEST_PIECE), _MOST_PIECES)


@triton.jit
def _add_tile(
    b_dk,
    b_dv,
    b_k,
    b_v,
    q,
    do,
    q_strides,
    do_strides,
    L,
    p_rows,
    PADDED,
    i_b,
    i_h,
    start,
    o_low,
    o_high,
    scale_log2,
    MASKED: tl.constexpr,
    CORE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """Add one tile of queries; they see a key from o_low on, and a raw one up to o_high."""
    o_q = start + tl.arange(0, BLOCK_Q)
    b_q = load_tile(q, q_strides, L, i_b, i_h, start, BLOCK_Q, D, BLOCK_D, DESCRIBED)
    b_do = load_tile(do, do_strides, L, i_b, i_h, start, BLOCK_Q, D, BLOCK_D, DESCRIBED)
    b_lse = tl.load(p_rows + o_q)  # [Q], base 2
    b_delta = tl.load(p_rows + PADDED + o_q)  # [Q]
    b_s = tl.dot(b_k, tl.trans(b_q), input_precision="ieee")  # [K, Q]
    b_p = tl.exp2(b_s * scale_log2 - b_lse[None, :])
    if MASKED:
        m_s = o_q[None, :] >= o_low[:, None]
        if not CORE:
            m_s = m_s & (o_q[None, :] < o_high[:, None])
        b_p = tl.where(m_s, b_p, 0)
    b_dv = tl.dot(b_p.to(b_do.dtype), b_do, b_dv, input_precision="ieee")
    b_dp = tl.dot(b_v, tl.trans(b_do), input_precision="ieee")  # [K, Q]
    b_ds = (b_p * (b_dp - b_delta[None, :])).to(b_q.dtype)
    b_dk = tl.dot(b_ds, b_q, b_dk, input_precision="ieee")
    return b_dk, b_dv


@triton.jit(
    do_not_specialize=["KV", "L", "S", "PADDED", "SPLITS", "first_key", "position", "G", "W"]
)
def attend_bwd_keys_kernel(
    q,
    k,
    v,
    do,
    rows,
    dk,
    dv,
    q_strides,
    k_strides,
    v_strides,
    do_strides,
    scale,
    scale_log2,
    KV,
    REP,
    L,
    S,
    PADDED,
    SPLITS,
    first_key,
    position,
    G,
    W,
    CORE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    # The first core tokens are seen by most queries, and start first.
    i_k = tl.program_id(1) // SPLITS
    i_split = tl.program_id(1) % SPLITS
    i_bh = tl.program_id(0)
    i_b, i_kv = i_bh // KV, i_bh % KV
    o_k = i_k * BLOCK_K + tl.arange(0, BLOCK_K)
    start = i_k * BLOCK_K
    b_k = load_tile(k, k_strides, S, i_b, i_kv, start, BLOCK_K, D, BLOCK_D, DESCRIBED)
    b_v = load_tile(v, v_strides, S, i_b, i_kv, start, BLOCK_K, D, BLOCK_D, DESCRIBED)
    b_dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    b_dv = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)

    # The queries of the block, counted from the first query: begin .. head (ragged) .. full ..
    # tail (ragged) .. end, in tiles from `begin`.
    key = i_k * BLOCK_K + first_key
    last = key + BLOCK_K - 1
    if CORE:
        o_low = (o_k + 1) * G + W - 1 - position  # [K]
        o_high = o_low  # every later query sees a core token: there is no such bound
        begin = tl.maximum(0, (key + 1) * G + W - 1 - position)
        all_from = (last + 1) * G + W - 1 - position
        end = L
        all_to = tl.cdiv(tl.maximum(0, L - begin), BLOCK_Q) * BLOCK_Q + begin
    else:
        o_low = o_k + first_key - position  # [K]
        o_high = ((o_k + first_key) // G + 1) * G + W - 1 - position
        begin = tl.maximum(0, key - position)
        all_from = last - position
        end = tl.minimum(L, (last // G + 1) * G + W - 1 - position)
        all_to = tl.minimum(L, (key // G + 1) * G + W - 1 - position)
    tiles = tl.cdiv(tl.maximum(0, end - begin), BLOCK_Q)
    head = tl.minimum(tiles, tl.cdiv(tl.maximum(0, all_from - begin), BLOCK_Q))
    full = tl.maximum(head, tl.minimum(tiles, tl.maximum(0, all_to - begin) // BLOCK_Q))
    piece = tl.cdiv(tiles, SPLITS)
    first_tile = i_split * piece
    last_tile = tl.minimum(tiles, first_tile + piece)

    for i_r in range(0, REP):
        i_h = i_kv * REP + i_r
        p_rows = rows + (i_bh * REP + i_r).to(tl.int64) * 2 * PADDED
        for i_t in tl.range(first_tile, tl.minimum(head, last_tile), disable_licm=True):
            b_dk, b_dv = _add_tile(
                b_dk, b_dv, b_k, b_v, q, do, q_strides, do_strides, L, p_rows, PADDED, i_b, i_h,
                begin + i_t * BLOCK_Q,
                o_low, o_high, scale_log2, True, CORE, BLOCK_Q, D, BLOCK_D, DESCRIBED,
            )  # fmt: skip
        # Downwards: core blocks begin at different queries and end at the same one, so that blocks
        # which run side by side read the same queries at the same time.
        full_first = tl.maximum(head, first_tile)
        full_last = tl.minimum(full, last_tile)
        for i_t in tl.range(full_first, full_last):
            b_dk, b_dv = _add_tile(
                b_dk, b_dv, b_k, b_v, q, do, q_strides, do_strides, L, p_rows, PADDED, i_b, i_h,
                begin + (full_first + full_last - 1 - i_t) * BLOCK_Q,
                o_low, o_high, scale_log2, False, CORE, BLOCK_Q, D, BLOCK_D, DESCRIBED,
            )  # fmt: skip
        if not CORE:
            for i_t in tl.range(tl.maximum(full, first_tile), last_tile, disable_licm=True):
                b_dk, b_dv = _add_tile(
                    b_dk, b_dv, b_k, b_v, q, do, q_strides, do_strides, L, p_rows, PADDED, i_b, i_h,
                begin + i_t * BLOCK_Q,
                    o_low, o_high, scale_log2, True, CORE, BLOCK_Q, D, BLOCK_D, DESCRIBED,
                )  # fmt: skip

    o_d = tl.arange(0, BLOCK_D)
    i_out = i_split.to(tl.int64) * tl.num_programs(0) + i_bh  # [splits, B, KV]
    o_out = (i_out * S + o_k[:, None]) * D + o_d[None, :]
    m_out = (o_k < S)[:, None] & (o_d < D)[None, :]
    tl.store(dk + o_out, (b_dk * scale).to(dk.dtype.element_ty), mask=m_out)
    tl.store(dv + o_out, b_dv.to(dv.dtype.element_ty), mask=m_out)


def attend_bwd_keys(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    do: Tensor,
    rows: Tensor,
    *,
    core: bool,
    position: int,
    group_size: int,
    window: int,
    scale: float,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Launch the dk, dv kernel on describable tensors, for raw or for core tokens."""
    B, H, L, D = q.shape
    KV, S = k.shape[1:3]
    if S == 0:
        return torch.empty_like(k), torch.empty_like(v)
    block_d = max(16, triton.next_power_of_2(D))
    tile = tile or tile_for(_TILES, architecture(q.device), block_d, q.element_size())
    blocks = triton.cdiv(S, tile.block_k)
    splits = query_pieces(L, blocks * B * KV) if core else 1
    dtype = k.dtype if splits == 1 else torch.float32
    dk = torch.empty(splits, B, KV, S, D, dtype=dtype, device=k.device)
    dv = torch.empty_like(dk)
    described = through_descriptors(q)
    tiles = {"q": q, "k": k, "v": v, "do": do}
    heights = {"q": tile.block_q, "do": tile.block_q}
    attend_bwd_keys_kernel[(B * KV, blocks * splits)](
        **{
            name: tile_descriptor(t, heights.get(name, tile.block_k), block_d) if described else t
            for name, t in tiles.items()
        },
        **{f"{name}_strides": t.stride()[:3] for name, t in tiles.items()},
        rows=rows,
        dk=dk,
        dv=dv,
        scale=scale,
        scale_log2=scale * LOG2_E.value,
        KV=KV,
        REP=H // KV,
        L=L,
        S=S,
        PADDED=rows.shape[-1],
        SPLITS=splits,
        first_key=0 if core else position + L - S,
        position=position,
        G=group_size,
        W=window,
        CORE=core,
        D=D,
        BLOCK_Q=tile.block_q,
        BLOCK_K=tile.block_k,
        BLOCK_D=block_d,
        DESCRIBED=described,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    if splits == 1:
        return dk[0], dv[0]
    return dk.sum(0).to(k.dtype), dv.sum(0).to(v.dtype)
