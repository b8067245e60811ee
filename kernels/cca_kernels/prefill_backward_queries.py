"""Backward of the prefill attention, the queries' side: one program makes dq of one query block.

Shapes as in cca_kernels.api.attend; rows [B, H, 2, padded L] from prefill_backward.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cca_kernels.descriptors import load_tile, through_descriptors, tile_descriptor
from cca_kernels.devices import architecture
from cca_kernels.primitives import LOG2_E, visible_groups
from cca_kernels.tiles import Table, Tile, tile_for

_TILES: Table = {
    "hopper": [
        (64, 2, Tile(block_q=128, block_k=64, num_warps=8, num_stages=3)),
        (128, 2, Tile(block_q=128, block_k=64, num_warps=8, num_stages=3)),
        (256, 2, Tile(block_q=64, block_k=64, num_warps=8, num_stages=2)),
        (128, 4, Tile(block_q=32, block_k=32, num_warps=8, num_stages=1)),
        (256, 4, Tile(block_q=16, block_k=16, num_warps=4, num_stages=1)),
    ],
    "ampere": [
        (64, 2, Tile(block_q=64, block_k=64, num_warps=4, num_stages=3)),
        (128, 2, Tile(block_q=64, block_k=32, num_warps=4, num_stages=3)),
        (256, 2, Tile(block_q=64, block_k=32, num_warps=8, num_stages=2)),
        (256, 4, Tile(block_q=16, block_k=16, num_warps=4, num_stages=1)),
    ],
    "ada": [
        (64, 2, Tile(block_q=64, block_k=64, num_warps=4, num_stages=2)),
        (128, 2, Tile(block_q=64, block_k=32, num_warps=4, num_stages=2)),
        (256, 2, Tile(block_q=32, block_k=32, num_warps=4, num_stages=1)),
        (256, 4, Tile(block_q=16, block_k=16, num_warps=4, num_stages=1)),
    ],
    "interpreter": [(1 << 30, 8, Tile(block_q=32, block_k=16, num_warps=4, num_stages=1))],
}
_TILES["blackwell"] = _TILES["ada"]  # the smallest, until one has been tuned


@triton.jit
def _add_tile(
    b_dq,
    b_q,
    b_do,
    b_lse,
    b_delta,
    k,
    v,
    k_strides,
    v_strides,
    length,
    i_b,
    i_kv,
    start,
    o_low,
    o_high,
    scale_log2,
    MASKED: tl.constexpr,
    BLOCK_K: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """Add one tile of keys; a row sees the keys from o_low to before o_high."""
    b_k = load_tile(k, k_strides, length, i_b, i_kv, start, BLOCK_K, D, BLOCK_D, DESCRIBED)
    b_v = load_tile(v, v_strides, length, i_b, i_kv, start, BLOCK_K, D, BLOCK_D, DESCRIBED)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")  # [Q, K]
    b_dp = tl.dot(b_do, tl.trans(b_v), input_precision="ieee")  # [Q, K]
    b_p = tl.exp2(b_s * scale_log2 - b_lse[:, None])
    if MASKED:
        o_k = start + tl.arange(0, BLOCK_K)
        b_p = tl.where((o_k[None, :] >= o_low[:, None]) & (o_k[None, :] < o_high[:, None]), b_p, 0)
    b_ds = (b_p * (b_dp - b_delta[:, None])).to(b_k.dtype)
    return tl.dot(b_ds, b_k, b_dq, input_precision="ieee")


@triton.jit(do_not_specialize=["H", "L", "S", "M", "PADDED", "first_raw", "position", "G", "W"])
def attend_bwd_queries_kernel(
    q,
    k,
    v,
    core_k,
    core_v,
    do,
    rows,
    dq,
    q_strides,
    k_strides,
    v_strides,
    core_k_strides,
    core_v_strides,
    do_strides,
    scale,
    scale_log2,
    H,
    REP,
    L,
    S,
    M,
    PADDED,
    first_raw,
    position,
    G,
    W,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    # The last blocks see most core tokens: they start first, so that the grid's end is short.
    i_q = tl.num_programs(1) - 1 - tl.program_id(1)
    i_bh = tl.program_id(0)
    i_b, i_h = i_bh // H, i_bh % H
    i_kv = i_h // REP
    start = i_q * BLOCK_Q
    o_q = start + tl.arange(0, BLOCK_Q)
    b_q = load_tile(q, q_strides, L, i_b, i_h, start, BLOCK_Q, D, BLOCK_D, DESCRIBED)
    b_do = load_tile(do, do_strides, L, i_b, i_h, start, BLOCK_Q, D, BLOCK_D, DESCRIBED)
    p_rows = rows + i_bh.to(tl.int64) * 2 * PADDED + o_q
    b_lse = tl.load(p_rows)  # [Q], base 2
    b_delta = tl.load(p_rows + PADDED)  # [Q]
    b_dq = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)

    first = position + start
    last = position + tl.minimum(start + BLOCK_Q, L) - 1
    cores_all = visible_groups(first, G, W)  # seen by every row
    cores_any = visible_groups(last, G, W)  # seen by some row
    o_cores = visible_groups(position + o_q, G, W)  # [Q]
    o_zero = tl.zeros([BLOCK_Q], tl.int32)
    full = cores_all // BLOCK_K * BLOCK_K
    for i_k in tl.range(0, full, BLOCK_K):
        b_dq = _add_tile(
            b_dq, b_q, b_do, b_lse, b_delta, core_k, core_v, core_k_strides, core_v_strides,
            M, i_b, i_kv, i_k, o_zero, o_cores,
            scale_log2, False, BLOCK_K, D, BLOCK_D, DESCRIBED,
        )  # fmt: skip
    for i_k in tl.range(full, cores_any, BLOCK_K):
        b_dq = _add_tile(
            b_dq, b_q, b_do, b_lse, b_delta, core_k, core_v, core_k_strides, core_v_strides,
            M, i_b, i_kv, i_k, o_zero, o_cores,
            scale_log2, True, BLOCK_K, D, BLOCK_D, DESCRIBED,
        )  # fmt: skip

    # Raw slots: a ragged left edge, the tiles that every row sees, the diagonal.
    o_low = o_cores * G - first_raw
    o_high = position + o_q + 1 - first_raw
    left = cores_all * G - first_raw
    right = last + 1 - first_raw
    middle = left + tl.cdiv((cores_any - cores_all) * G, BLOCK_K) * BLOCK_K
    full = tl.maximum(0, first + 1 - first_raw - middle) // BLOCK_K * BLOCK_K
    for i_k in tl.range(left, tl.minimum(middle, right), BLOCK_K):
        b_dq = _add_tile(
            b_dq, b_q, b_do, b_lse, b_delta, k, v, k_strides, v_strides,
            S, i_b, i_kv, i_k, o_low, o_high,
            scale_log2, True, BLOCK_K, D, BLOCK_D, DESCRIBED,
        )  # fmt: skip
    for i_k in tl.range(middle, middle + full, BLOCK_K):
        b_dq = _add_tile(
            b_dq, b_q, b_do, b_lse, b_delta, k, v, k_strides, v_strides,
            S, i_b, i_kv, i_k, o_low, o_high,
            scale_log2, False, BLOCK_K, D, BLOCK_D, DESCRIBED,
        )  # fmt: skip
    for i_k in tl.range(middle + full, right, BLOCK_K):
        b_dq = _add_tile(
            b_dq, b_q, b_do, b_lse, b_delta, k, v, k_strides, v_strides,
            S, i_b, i_kv, i_k, o_low, o_high,
            scale_log2, True, BLOCK_K, D, BLOCK_D, DESCRIBED,
        )  # fmt: skip

    o_d = tl.arange(0, BLOCK_D)
    p_dq = dq + (i_bh.to(tl.int64) * L + o_q[:, None]) * D + o_d[None, :]
    b_dq = (b_dq * scale).to(dq.dtype.element_ty)
    tl.store(p_dq, b_dq, mask=(o_q < L)[:, None] & (o_d < D)[None, :])


def attend_bwd_queries(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    core_k: Tensor,
    core_v: Tensor,
    do: Tensor,
    rows: Tensor,
    *,
    position: int,
    group_size: int,
    window: int,
    scale: float,
    tile: Tile | None = None,
) -> Tensor:
    """Launch the dq kernel on describable tensors; `rows` as attend_bwd_rows makes it."""
    B, H, L, D = q.shape
    block_d = max(16, triton.next_power_of_2(D))
    tile = tile or tile_for(_TILES, architecture(q.device), block_d, q.element_size())
    if core_k.shape[2] == 0:
        core_k, core_v = k, v  # no loop reads them, but a descriptor must not be empty
    dq = torch.empty(B, H, L, D, dtype=q.dtype, device=q.device)
    described = through_descriptors(q)
    tiles = {"q": q, "k": k, "v": v, "core_k": core_k, "core_v": core_v, "do": do}
    heights = {"q": tile.block_q, "do": tile.block_q}
    attend_bwd_queries_kernel[(B * H, triton.cdiv(L, tile.block_q))](
        **{
            name: tile_descriptor(t, heights.get(name, tile.block_k), block_d) if described else t
            for name, t in tiles.items()
        },
        **{f"{name}_strides": t.stride()[:3] for name, t in tiles.items()},
        rows=rows,
        dq=dq,
        scale=scale,
        scale_log2=scale * LOG2_E.value,
        H=H,
        REP=H // k.shape[1],
        L=L,
        S=k.shape[2],
        M=core_k.shape[2],
        PADDED=rows.shape[-1],
        first_raw=position + L - k.shape[2],
        position=position,
        G=group_size,
        W=window,
        D=D,
        BLOCK_Q=tile.block_q,
        BLOCK_K=tile.block_k,
        BLOCK_D=block_d,
        DESCRIBED=described,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return dq
