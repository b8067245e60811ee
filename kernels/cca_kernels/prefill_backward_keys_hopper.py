"""Backward of the prefill attention on Hopper, the keys' side: warp-specialised, in Gluon.

One warp loads tiles of queries; two consumers own 64 keys each, as prefill_backward_hopper tells.
Shapes as in cca_kernels.api; what the kernel computes, and which tiles need a mask:
prefill_backward_keys.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from cca_kernels.hopper_primitives import cdiv, gluon_descriptor, load, store
from cca_kernels.prefill_backward_hopper import CONSUMERS
from cca_kernels.prefill_backward_keys import query_pieces
from cca_kernels.primitives import LOG2_E

_INTS = ["KV", "REP", "L", "S", "SPLITS", "first_key", "position", "G", "W"]


@gluon.jit
def _key_plan(sizes, CORE: gl.constexpr, BLOCK_Q: gl.constexpr):
    """Find the tiles of queries that see the program's keys.

    Returns the program's first key, the first query, the first tile and the number of tiles masked
    at the head, the same of unmasked ones, and the same of those masked at the tail.
    """
    _KV, _REP, L, _S, SPLITS, first_key, position, G, W = sizes
    key = gl.program_id(1) // SPLITS * (64 * CONSUMERS)
    split = gl.program_id(1) % SPLITS
    first = key + first_key
    last = first + 64 * CONSUMERS - 1
    # The rows' numbers are copied four at a time: a copy from between two fours is an illegal
    # instruction. The head's mask hides what comes before the first query.
    if CORE:
        begin = gl.maximum((first + 1) * G + W - 1 - position, 0) // 4 * 4
        all_from = (last + 1) * G + W - 1 - position
        end = L + 0
        all_to = begin + cdiv(gl.maximum(L - begin, 0), BLOCK_Q) * BLOCK_Q
    else:
        begin = gl.maximum(first - position, 0) // 4 * 4
        all_from = last - position
        end = gl.minimum((last // G + 1) * G + W - 1 - position, L)
        all_to = gl.minimum((first // G + 1) * G + W - 1 - position, L)
    tiles = cdiv(gl.maximum(end - begin, 0), BLOCK_Q)
    head = gl.minimum(tiles, cdiv(gl.maximum(all_from - begin, 0), BLOCK_Q))
    full = gl.maximum(head, gl.minimum(tiles, gl.maximum(all_to - begin, 0) // BLOCK_Q))
    piece = cdiv(tiles, SPLITS)
    t0 = split * piece
    t1 = gl.minimum(tiles, t0 + piece)
    f0 = gl.maximum(head, t0)
    l0 = gl.maximum(full, t0)
    n_head = gl.maximum(gl.minimum(head, t1) - t0, 0)
    n_full = gl.maximum(gl.minimum(full, t1) - f0, 0)
    n_tail = gl.maximum(t1 - l0, 0)
    return key, begin, t0, n_head, f0, n_full, l0, n_tail


@gluon.jit
def _load_queries(q, do, rows, i_b, i_h, row, q_buf, do_buf, lse_buf, delta_buf, full, free, n,
                  STAGES: gl.constexpr):  # fmt: skip
    s = n % STAGES
    nbytes: gl.constexpr = q.block_type.nbytes + do.block_type.nbytes + 2 * rows.block_type.nbytes
    mbarrier.wait(free.index(s), ((n // STAGES) & 1) ^ 1)
    mbarrier.expect(full.index(s), nbytes)
    load(q, [i_b, i_h, row, 0], full.index(s), q_buf.index(s))
    load(rows, [i_b, i_h, 0, row], full.index(s), lse_buf.index(s))
    load(do, [i_b, i_h, row, 0], full.index(s), do_buf.index(s))
    load(rows, [i_b, i_h, 1, row], full.index(s), delta_buf.index(s))


@gluon.jit
def _key_producer(inputs, bufs, bars, sizes, CORE: gl.constexpr, BLOCK_Q: gl.constexpr,
                  STAGES: gl.constexpr):  # fmt: skip
    q, k, v, do, rows = inputs
    k_buf, v_buf, q_buf, do_buf, lse_buf, delta_buf = bufs
    k_full, full, free = bars
    KV, REP, _L, _S, _SPLITS, _first_key, _position, _G, _W = sizes
    i_b, i_kv = gl.program_id(0) // KV, gl.program_id(0) % KV
    key, begin, t0, n_head, f0, n_full, l0, n_tail = _key_plan(sizes, CORE, BLOCK_Q)
    mbarrier.expect(k_full.index(0), CONSUMERS * (k.block_type.nbytes + v.block_type.nbytes))
    for c in gl.static_range(CONSUMERS):
        load(k, [i_b, i_kv, key + c * 64, 0], k_full.index(0), k_buf.index(c))
        load(v, [i_b, i_kv, key + c * 64, 0], k_full.index(0), v_buf.index(c))
    n = 0
    for i_h in range(i_kv * REP, i_kv * REP + REP):
        for j in range(n_head + n_tail):
            t = gl.where(j < n_head, t0 + j, l0 + j - n_head)
            _load_queries(q, do, rows, i_b, i_h, begin + t * BLOCK_Q,
                          q_buf, do_buf, lse_buf, delta_buf, full, free, n, STAGES)  # fmt: skip
            n += 1
        # Downwards: core blocks begin at different queries and end at the same one, so that
        # programs which run side by side read the same queries at the same time.
        for j in range(n_full):
            t = f0 + n_full - 1 - j
            _load_queries(q, do, rows, i_b, i_h, begin + t * BLOCK_Q,
                          q_buf, do_buf, lse_buf, delta_buf, full, free, n, STAGES)  # fmt: skip
            n += 1


@gluon.jit
def _key_step(k_tile, v_tile, q_buf, do_buf, lse_buf, delta_buf, full, free, n, b_dk, b_dv,
              low, high, base, scale_log2, s_layout: gl.constexpr, p_layout: gl.constexpr,
              MASKED: gl.constexpr, CORE: gl.constexpr, BLOCK_D: gl.constexpr,
              BLOCK_Q: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """Add the n-th tile of queries to dk and dv, on transposed scores [keys, queries]."""
    s = n % STAGES
    cols: gl.constexpr = gl.SliceLayout(0, s_layout)
    mbarrier.wait(full.index(s), (n // STAGES) & 1)
    q_tile = q_buf.index(s).reshape([BLOCK_Q, BLOCK_D])
    do_tile = do_buf.index(s).reshape([BLOCK_Q, BLOCK_D])
    zero = gl.full([64, BLOCK_Q], 0.0, gl.float32, s_layout)
    b_lse = lse_buf.index(s).reshape([BLOCK_Q]).load(cols) * (-1.0 / scale_log2)
    b_s = hopper.warpgroup_mma(k_tile, q_tile.permute((1, 0)), zero + b_lse[None, :], is_async=True)
    b_delta = -delta_buf.index(s).reshape([BLOCK_Q]).load(cols)
    b_dp = hopper.warpgroup_mma(
        v_tile, do_tile.permute((1, 0)), zero + b_delta[None, :], is_async=True
    )
    b_s = hopper.warpgroup_mma_wait(1, deps=[b_s])
    b_p = gl.exp2(b_s * scale_log2)
    if MASKED:
        row = base + gl.arange(0, BLOCK_Q, cols)
        seen = row[None, :] >= low[:, None]
        if not CORE:
            seen = seen & (row[None, :] < high[:, None])
        b_p = gl.where(seen, b_p, 0.0)
    b_dv = hopper.warpgroup_mma(
        gl.convert_layout(b_p.to(q_buf.dtype), p_layout), do_tile, b_dv, is_async=True
    )
    b_dp = hopper.warpgroup_mma_wait(1, deps=[b_dp])
    b_ds = gl.convert_layout((b_p * b_dp).to(q_buf.dtype), p_layout)
    b_dk = hopper.warpgroup_mma(b_ds, q_tile, b_dk, is_async=True)
    b_dk, b_dv = hopper.warpgroup_mma_wait(0, deps=[b_dk, b_dv])
    mbarrier.arrive(free.index(s), count=1)
    return b_dk, b_dv


@gluon.jit
def _key_consumer(dk, dv, dk_desc, dv_desc, bufs, bars, sizes, scale, scale_log2,
                  C: gl.constexpr, CORE: gl.constexpr, PARTIAL: gl.constexpr, D: gl.constexpr,
                  BLOCK_Q: gl.constexpr, BLOCK_D: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    k_buf, v_buf, q_buf, do_buf, lse_buf, delta_buf = bufs
    k_full, full, free = bars
    KV, REP, _L, S, SPLITS, first_key, position, G, W = sizes
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_Q, 16])
    acc_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, acc_layout, 2)
    i_bh = gl.program_id(0)
    i_b, i_kv = i_bh // KV, i_bh % KV
    key, begin, t0, n_head, _f0, n_full, l0, n_tail = _key_plan(sizes, CORE, BLOCK_Q)
    own = first_key + key + C * 64 + gl.arange(0, 64, gl.SliceLayout(1, s_layout))
    if CORE:
        low = (own + 1) * G + W - 1 - position
        high = low  # core tokens are seen by every later query: there is no such bound
    else:
        low = own - position
        high = (own // G + 1) * G + W - 1 - position
    k_tile = k_buf.index(C).reshape([64, BLOCK_D])
    v_tile = v_buf.index(C).reshape([64, BLOCK_D])
    b_dk = gl.full([64, BLOCK_D], 0.0, gl.float32, acc_layout)
    b_dv = gl.full([64, BLOCK_D], 0.0, gl.float32, acc_layout)
    mbarrier.wait(k_full.index(0), 0)
    n = 0
    for _h in range(REP):
        for j in range(n_head + n_tail):
            t = gl.where(j < n_head, t0 + j, l0 + j - n_head)
            b_dk, b_dv = _key_step(
                k_tile, v_tile, q_buf, do_buf, lse_buf, delta_buf, full, free, n, b_dk, b_dv,
                low, high, begin + t * BLOCK_Q, scale_log2, s_layout, p_layout,
                True, CORE, BLOCK_D, BLOCK_Q, STAGES)  # fmt: skip
            n += 1
        for _j in range(n_full):
            b_dk, b_dv = _key_step(
                k_tile, v_tile, q_buf, do_buf, lse_buf, delta_buf, full, free, n, b_dk, b_dv,
                low, high, 0, scale_log2, s_layout, p_layout,
                False, CORE, BLOCK_D, BLOCK_Q, STAGES)  # fmt: skip
            n += 1
    if PARTIAL:
        at = key + C * 64 + gl.arange(0, 64, gl.SliceLayout(1, acc_layout))
        o_d = gl.arange(0, BLOCK_D, gl.SliceLayout(0, acc_layout))
        i_out = (gl.program_id(1) % SPLITS).to(gl.int64) * gl.num_programs(0) + i_bh
        o_out = (i_out * S + at[:, None]) * D + o_d[None, :]
        m_out = (at < S)[:, None] & (o_d < D)[None, :]
        gl.store(dk + o_out, b_dk * scale, mask=m_out)
        gl.store(dv + o_out, b_dv, mask=m_out)
    else:
        # The keys are no longer needed: their tiles carry the results out.
        k_tile.store((b_dk * scale).to(k_buf.dtype))
        v_tile.store(b_dv.to(v_buf.dtype))
        hopper.fence_async_shared()
        store(dk_desc, [i_b, i_kv, key + C * 64, 0], k_buf.index(C))
        store(dv_desc, [i_b, i_kv, key + C * 64, 0], v_buf.index(C))
        tma.store_wait(0)


@gluon.jit(do_not_specialize=_INTS)
def attend_bwd_keys_hopper_kernel(
    q, k, v, do, rows, dk, dv, dk_desc, dv_desc, scale, scale_log2,
    KV, REP, L, S, SPLITS, first_key, position, G, W,
    CORE: gl.constexpr, PARTIAL: gl.constexpr, D: gl.constexpr,
    BLOCK_Q: gl.constexpr, BLOCK_D: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    bar: gl.constexpr = mbarrier.MBarrierLayout()
    k_buf = gl.allocate_shared_memory(q.dtype, [CONSUMERS, 1, 1, 64, BLOCK_D], k.layout)
    v_buf = gl.allocate_shared_memory(q.dtype, [CONSUMERS, 1, 1, 64, BLOCK_D], v.layout)
    q_buf = gl.allocate_shared_memory(q.dtype, [STAGES, 1, 1, BLOCK_Q, BLOCK_D], q.layout)
    do_buf = gl.allocate_shared_memory(q.dtype, [STAGES, 1, 1, BLOCK_Q, BLOCK_D], do.layout)
    lse_buf = gl.allocate_shared_memory(gl.float32, [STAGES, 1, 1, 1, BLOCK_Q], rows.layout)
    delta_buf = gl.allocate_shared_memory(gl.float32, [STAGES, 1, 1, 1, BLOCK_Q], rows.layout)
    k_full = gl.allocate_shared_memory(gl.int64, [1, 1], bar)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    mbarrier.init(k_full.index(0), count=1)
    for s in gl.static_range(STAGES):
        mbarrier.init(full.index(s), count=1)
        mbarrier.init(free.index(s), count=CONSUMERS)
    hopper.fence_async_shared()
    inputs = (q, k, v, do, rows)
    bufs = (k_buf, v_buf, q_buf, do_buf, lse_buf, delta_buf)
    bars = (k_full, full, free)
    sizes = (KV, REP, L, S, SPLITS, first_key, position, G, W)
    gl.warp_specialize(
        [
            (_key_consumer, (dk, dv, dk_desc, dv_desc, bufs, bars, sizes, scale, scale_log2, 0,
                             CORE, PARTIAL, D, BLOCK_Q, BLOCK_D, STAGES)),
            (_key_consumer, (dk, dv, dk_desc, dv_desc, bufs, bars, sizes, scale, scale_log2, 1,
                             CORE, PARTIAL, D, BLOCK_Q, BLOCK_D, STAGES)),
            (_key_producer, (inputs, bufs, bars, sizes, CORE, BLOCK_Q, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


def attend_bwd_keys_hopper(
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
    block_q: int = 64,
    stages: int = 3,
) -> tuple[Tensor, Tensor]:
    """Launch the dk, dv kernel on describable tensors, for raw or for core tokens."""
    B, H, L, D = q.shape
    KV, S = k.shape[1:3]
    if S == 0:
        return torch.empty_like(k), torch.empty_like(v)
    block_d = 64 if D <= 64 else 128
    blocks = -(-S // 128)
    splits = query_pieces(L, blocks * B * KV) if core else 1
    dtype = k.dtype if splits == 1 else torch.float32
    dk = torch.empty(splits, B, KV, S, D, dtype=dtype, device=k.device)
    dv = torch.empty_like(dk)
    # The tile's descriptor is not used, and only need be valid, where the sums are partial.
    dk_out, dv_out = (dk[0], dv[0]) if splits == 1 else (k, v)
    row_tile = [1, 1, 1, block_q]
    row_layout = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=4)
    attend_bwd_keys_hopper_kernel[(B * KV, blocks * splits)](
        q=gluon_descriptor(q, block_q, block_d),
        k=gluon_descriptor(k, 64, block_d),
        v=gluon_descriptor(v, 64, block_d),
        do=gluon_descriptor(do, block_q, block_d),
        rows=TensorDescriptor(rows, list(rows.shape), list(rows.stride()), row_tile, row_layout),
        dk=dk,
        dv=dv,
        dk_desc=gluon_descriptor(dk_out, 64, block_d),
        dv_desc=gluon_descriptor(dv_out, 64, block_d),
        scale=scale,
        scale_log2=scale * LOG2_E.value,
        KV=KV,
        REP=H // KV,
        L=L,
        S=S,
        SPLITS=splits,
        first_key=0 if core else position + L - S,
        position=position,
        G=group_size,
        W=window,
        CORE=core,
        PARTIAL=splits > 1,
        D=D,
        BLOCK_Q=block_q,
        BLOCK_D=block_d,
        STAGES=stages,
        num_warps=4,
        maxnreg=168,
    )
    if splits == 1:
        return dk[0], dv[0]
    return dk.sum(0).to(k.dtype), dv.sum(0).to(v.dtype)
