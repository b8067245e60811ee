"""Prefill attention: one program attends from a block of queries of one head.

The keys come in three runs: core tokens that every row sees, the edges (core tokens that only the
later rows see, raw tokens at either end of the window), and the raw tokens between, which every row
sees. Only the edges are masked. Hopper has a kernel of its own, in prefill_hopper.py.

Shapes as in cca_kernels.api; what it computes: cca_kernels/reference.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cca_kernels.devices import architecture
from cca_kernels.partition import visible_cores
from cca_kernels.primitives import attend_tiles, finish, start_rows, visible_groups
from cca_kernels.tiles import Table, Tile, tile_for


# Not compiled anew for lengths that happen to be one or a multiple of sixteen.
@triton.jit(do_not_specialize=["L", "S", "M", "position"])
def attend_fwd_kernel(
    q,
    k,
    v,
    core_k,
    core_v,
    o,
    lse,
    q_strides,
    k_strides,
    v_strides,
    core_k_strides,
    core_v_strides,
    o_strides,
    H,
    L,
    S,
    M,
    position,
    scale,
    REP: tl.constexpr,
    G: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # Long rows first: the last blocks see the most keys.
    i_q = tl.num_programs(0) - 1 - tl.program_id(0)
    i_bh = tl.program_id(1)
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    i_kv = i_h // REP
    o_q = i_q * BLOCK_Q + tl.arange(0, BLOCK_Q)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    row = o_q.to(tl.int64) * q_strides[2]
    p_q = q + i_b * q_strides[0] + i_h * q_strides[1] + row[:, None] + o_d[None, :]
    b_q = tl.load(p_q, mask=(o_q < L)[:, None] & m_d[None, :], other=0.0)

    # Every query sees itself, so raw slot s stands at position + L - S + s.
    raw = position + L - S
    first = position + i_q * BLOCK_Q
    last = tl.minimum(first + BLOCK_Q, position + L) - 1
    p_row = tl.minimum(position + o_q, position + L - 1)
    m_row = visible_groups(p_row, G, W)
    m_first, m_last = visible_groups(first, G, W), visible_groups(last, G, W)
    start = m_first * G - raw
    stop = last + 1 - raw
    # Slots that every row sees: from the last row's window on, up to the first row itself.
    full_a = tl.minimum(start + tl.cdiv(m_last * G - raw - start, BLOCK_K) * BLOCK_K, stop)
    full_b = full_a + tl.maximum(first + 1 - raw - full_a, 0) // BLOCK_K * BLOCK_K
    core_full = m_first // BLOCK_K * BLOCK_K

    b_m, b_l, b_o = start_rows(BLOCK_Q, BLOCK_D)
    p_k = k + i_b * k_strides[0] + i_kv * k_strides[1]
    p_v = v + i_b * v_strides[0] + i_kv * v_strides[1]
    p_ck = core_k + i_b * core_k_strides[0] + i_kv * core_k_strides[1]
    p_cv = core_v + i_b * core_v_strides[0] + i_kv * core_v_strides[1]
    zero = tl.zeros([BLOCK_Q], tl.int32)
    low, high = m_row * G - raw, p_row + 1 - raw

    # The diagonal first: it gives every row a real maximum.
    b_m, b_l, b_o = attend_tiles(
        b_q, b_m, b_l, b_o, p_k, p_v, k_strides[2], v_strides[2], full_b, stop, S, low, high,
        scale, D, BLOCK_K, BLOCK_D, 1, True, PRECISION,
    )  # fmt: skip
    b_m, b_l, b_o = attend_tiles(
        b_q, b_m, b_l, b_o, p_k, p_v, k_strides[2], v_strides[2], start, full_a, S, low, high,
        scale, D, BLOCK_K, BLOCK_D, 1, True, PRECISION,
    )  # fmt: skip
    b_m, b_l, b_o = attend_tiles(
        b_q, b_m, b_l, b_o, p_ck, p_cv, core_k_strides[2], core_v_strides[2], core_full, m_last,
        M, zero, m_row, scale, D, BLOCK_K, BLOCK_D, 1, True, PRECISION,
    )  # fmt: skip
    b_m, b_l, b_o = attend_tiles(
        b_q, b_m, b_l, b_o, p_k, p_v, k_strides[2], v_strides[2], full_a, full_b, S, low, high,
        scale, D, BLOCK_K, BLOCK_D, STAGES, False, PRECISION,
    )  # fmt: skip
    b_m, b_l, b_o = attend_tiles(
        b_q, b_m, b_l, b_o, p_ck, p_cv, core_k_strides[2], core_v_strides[2], 0, core_full,
        M, zero, m_row, scale, D, BLOCK_K, BLOCK_D, STAGES, False, PRECISION,
    )  # fmt: skip

    b_o, b_lse = finish(b_m, b_l, b_o, scale)
    o_row = (i_b * H + i_h) * L + o_q
    p_row = o + i_b * o_strides[0] + i_h * o_strides[1] + o_q.to(tl.int64) * o_strides[2]
    p_o = p_row[:, None] + o_d[None, :]
    tl.store(p_o, b_o.to(o.dtype.element_ty), mask=(o_q < L)[:, None] & m_d[None, :])
    tl.store(lse + o_row, b_lse, mask=o_q < L)


_TILES: Table = {
    "hopper": [
        (64, 2, Tile(block_q=128, block_k=64, num_warps=4, num_stages=3)),
        (128, 2, Tile(block_q=64, block_k=64, num_warps=4, num_stages=3)),
        (256, 2, Tile(block_q=128, block_k=32, num_warps=8, num_stages=2)),
        (64, 4, Tile(block_q=64, block_k=32, num_warps=8, num_stages=2)),
        (256, 4, Tile(block_q=32, block_k=32, num_warps=8, num_stages=1)),
    ],
    "ampere": [
        (64, 2, Tile(block_q=128, block_k=64, num_warps=4, num_stages=3)),
        (128, 2, Tile(block_q=128, block_k=64, num_warps=8, num_stages=3)),
        (256, 2, Tile(block_q=64, block_k=32, num_warps=4, num_stages=2)),
        (64, 4, Tile(block_q=64, block_k=32, num_warps=8, num_stages=2)),
        (256, 4, Tile(block_q=32, block_k=32, num_warps=8, num_stages=1)),
    ],
    "ada": [
        (64, 2, Tile(block_q=128, block_k=64, num_warps=4, num_stages=2)),
        (128, 2, Tile(block_q=128, block_k=32, num_warps=8, num_stages=2)),
        (256, 2, Tile(block_q=64, block_k=32, num_warps=4, num_stages=1)),
        (64, 4, Tile(block_q=32, block_k=32, num_warps=4, num_stages=2)),
        (256, 4, Tile(block_q=16, block_k=32, num_warps=4, num_stages=1)),
    ],
    # Small, so that odd sizes cross several tiles.
    "interpreter": [(1 << 30, 8, Tile(block_q=32, block_k=32, num_warps=4, num_stages=1))],
}


def attend_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    core_k: Tensor,
    core_v: Tensor,
    *,
    position: int,
    group_size: int,
    window: int,
    scale: float,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Launch the kernel that suits the device, on arguments that cca_kernels.api has checked.

    Args:
        q: Queries, [B, H, L, D]; all others as in cca_kernels.api.attend.
        tile: Instead of the table's, for tuning; takes the portable kernel.
    """
    B, H, L, D = q.shape
    KV, S = k.shape[1:3]
    arch = architecture(q.device)
    if tile is None and arch == "hopper":
        from cca_kernels import prefill_hopper

        if prefill_hopper.can_run(q, k, v, core_k, core_v):
            return prefill_hopper.attend_fwd_hopper(
                q, k, v, core_k, core_v,
                position=position, group_size=group_size, window=window, scale=scale,
            )  # fmt: skip
    block_d = max(16, triton.next_power_of_2(D))
    tile = tile or tile_for(_TILES, arch, block_d, q.element_size())
    # Laid out as the layers behind want it: heads side by side in a token's row.
    o = torch.empty((B, L, H, D), dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.empty((B, H, L), dtype=torch.float32, device=q.device)
    attend_fwd_kernel[(triton.cdiv(L, tile.block_q), B * H)](
        q,
        k,
        v,
        core_k,
        core_v,
        o,
        lse,
        q_strides=q.stride()[:3],
        k_strides=k.stride()[:3],
        v_strides=v.stride()[:3],
        core_k_strides=core_k.stride()[:3],
        core_v_strides=core_v.stride()[:3],
        o_strides=o.stride()[:3],
        H=H,
        L=L,
        S=S,
        M=visible_cores(position + L - 1, group_size=group_size, window=window),
        position=position,
        scale=scale,
        REP=H // KV,
        G=group_size,
        W=window,
        D=D,
        BLOCK_Q=tile.block_q,
        BLOCK_K=tile.block_k,
        BLOCK_D=block_d,
        STAGES=tile.num_stages,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=tile.num_warps,
    )
    return o, lse
