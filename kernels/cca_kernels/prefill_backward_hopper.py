"""Backward of the prefill attention on Hopper, the queries' side: warp-specialised, in Gluon.

One warp loads tiles through the tensor memory accelerator; two consumers, warpgroups of four warps,
own 64 rows each. While one does its exponentials the other's products keep the tensor cores busy.
The log-sum-exp and the row sums enter as what the products start from, -lse / scale and -delta,
and so cost neither instructions nor registers.

Shapes as in cca_kernels.api; what the kernel computes, and which tiles need a mask:
prefill_backward_queries.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from cca_kernels.hopper_primitives import cdiv, gluon_descriptor, load, store, visible
from cca_kernels.primitives import LOG2_E

CONSUMERS = gl.constexpr(2)
_INTS = ["H", "REP", "L", "first_raw", "position", "G", "W"]


def can_run(q: Tensor, scale: float) -> bool:
    """Say whether these kernels serve the tensors, which must be describable."""
    D = q.shape[3]
    return q.dtype in (torch.bfloat16, torch.float16) and D <= 128 and D % 8 == 0 and scale > 0


@gluon.jit
def _query_plan(first, last, first_raw, G, W, BLOCK_K: gl.constexpr):
    """Cut the keys of the rows from `first` to `last` into tiles.

    Returns unmasked and masked core tiles; the first raw slot; raw tiles masked on the left,
    unmasked, and masked on the right.
    """
    cores_all = visible(first, G, W)
    cores_any = visible(last, G, W)
    core_full = cores_all // BLOCK_K
    slot = cores_all * G - first_raw
    n_raw = cdiv(last + 1 - first_raw - slot, BLOCK_K)
    n_left = gl.minimum(n_raw, cdiv((cores_any - cores_all) * G, BLOCK_K))
    n_full = gl.maximum((first + 1 - first_raw - slot) // BLOCK_K - n_left, 0)
    n_core = cdiv(cores_any, BLOCK_K) - core_full
    return core_full, n_core, slot, n_left, n_full, n_raw - n_left - n_full


@gluon.jit
def _load_pair(a, b, i_b, i_h, row, a_buf, b_buf, full, free, n, STAGES: gl.constexpr):
    s = n % STAGES
    mbarrier.wait(free.index(s), ((n // STAGES) & 1) ^ 1)
    mbarrier.expect(full.index(s), a.block_type.nbytes + b.block_type.nbytes)
    load(a, [i_b, i_h, row, 0], full.index(s), a_buf.index(s))
    load(b, [i_b, i_h, row, 0], full.index(s), b_buf.index(s))


@gluon.jit
def _query_producer(inputs, bufs, bars, sizes, BLOCK_K: gl.constexpr, STAGES: gl.constexpr):
    q, k, v, core_k, core_v, do = inputs
    q_buf, do_buf, k_buf, v_buf = bufs
    q_full, full, free = bars
    H, REP, L, first_raw, position, G, W = sizes
    i_q = gl.num_programs(1) - 1 - gl.program_id(1)
    i_b, i_h = gl.program_id(0) // H, gl.program_id(0) % H
    i_kv = i_h // REP
    row = i_q * (64 * CONSUMERS)
    mbarrier.expect(q_full.index(0), CONSUMERS * (q.block_type.nbytes + do.block_type.nbytes))
    for c in gl.static_range(CONSUMERS):
        load(q, [i_b, i_h, row + c * 64, 0], q_full.index(0), q_buf.index(c))
        load(do, [i_b, i_h, row + c * 64, 0], q_full.index(0), do_buf.index(c))
    last = gl.minimum(row + 64 * CONSUMERS, L) - 1
    core_full, n_core, slot, n_left, n_full, n_right = _query_plan(
        position + row, position + last, first_raw, G, W, BLOCK_K
    )
    n = 0
    for j in range(n_core):
        _load_pair(core_k, core_v, i_b, i_kv, (core_full + j) * BLOCK_K, k_buf, v_buf,
                   full, free, n, STAGES)  # fmt: skip
        n += 1
    for j in range(n_left + n_right):
        t = gl.where(j < n_left, j, j + n_full)
        _load_pair(k, v, i_b, i_kv, slot + t * BLOCK_K, k_buf, v_buf, full, free, n, STAGES)
        n += 1
    for j in range(n_full):
        _load_pair(k, v, i_b, i_kv, slot + (n_left + j) * BLOCK_K, k_buf, v_buf,
                   full, free, n, STAGES)  # fmt: skip
        n += 1
    for j in range(core_full):
        _load_pair(core_k, core_v, i_b, i_kv, j * BLOCK_K, k_buf, v_buf, full, free, n, STAGES)
        n += 1


@gluon.jit
def _query_step(q_tile, do_tile, k_buf, v_buf, full, free, n, acc, b_lse, b_delta,
                low, high, base, scale_log2, s_layout: gl.constexpr, p_layout: gl.constexpr,
                MASKED: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """Add the n-th tile to dq."""
    s = n % STAGES
    rows: gl.constexpr = k_buf.shape[3]
    depth: gl.constexpr = k_buf.shape[4]
    mbarrier.wait(full.index(s), (n // STAGES) & 1)
    k_tile = k_buf.index(s).reshape([rows, depth])
    v_tile = v_buf.index(s).reshape([rows, depth])
    zero = gl.full([64, rows], 0.0, gl.float32, s_layout)
    b_s = hopper.warpgroup_mma(q_tile, k_tile.permute((1, 0)), zero + b_lse[:, None], is_async=True)
    b_dp = hopper.warpgroup_mma(
        do_tile, v_tile.permute((1, 0)), zero + b_delta[:, None], is_async=True
    )
    b_s = hopper.warpgroup_mma_wait(1, deps=[b_s])
    b_p = gl.exp2(b_s * scale_log2)
    if MASKED:
        key = base + gl.arange(0, rows, gl.SliceLayout(0, s_layout))
        b_p = gl.where((key[None, :] >= low[:, None]) & (key[None, :] < high[:, None]), b_p, 0.0)
    b_dp = hopper.warpgroup_mma_wait(0, deps=[b_dp])
    b_ds = gl.convert_layout((b_p * b_dp).to(k_buf.dtype), p_layout)
    acc = hopper.warpgroup_mma(b_ds, k_tile, acc, is_async=True)
    acc = hopper.warpgroup_mma_wait(0, deps=[acc])
    mbarrier.arrive(free.index(s), count=1)
    return acc


@gluon.jit
def _query_consumer(dq, rows, bufs, bars, sizes, PADDED, scale, scale_log2,
                    C: gl.constexpr, BLOCK_K: gl.constexpr, BLOCK_D: gl.constexpr,
                    STAGES: gl.constexpr):  # fmt: skip
    q_buf, do_buf, k_buf, v_buf = bufs
    q_full, full, free = bars
    H, _REP, L, first_raw, position, G, W = sizes
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_K, 16])
    acc_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, acc_layout, 2)
    i_q = gl.num_programs(1) - 1 - gl.program_id(1)
    i_bh = gl.program_id(0)
    i_b, i_h = i_bh // H, i_bh % H
    row = i_q * (64 * CONSUMERS)
    last = gl.minimum(row + 64 * CONSUMERS, L) - 1
    core_full, n_core, slot, n_left, n_full, n_right = _query_plan(
        position + row, position + last, first_raw, G, W, BLOCK_K
    )
    own = row + C * 64 + gl.arange(0, 64, gl.SliceLayout(1, s_layout))
    p_rows = rows + i_bh.to(gl.int64) * 2 * PADDED + own
    b_lse = gl.load(p_rows) * (-1.0 / scale_log2)
    b_delta = -gl.load(p_rows + PADDED)
    cores = visible(position + own, G, W)
    low = cores * G - first_raw
    high = position + own + 1 - first_raw
    q_tile = q_buf.index(C).reshape([64, BLOCK_D])
    do_tile = do_buf.index(C).reshape([64, BLOCK_D])
    acc = gl.full([64, BLOCK_D], 0.0, gl.float32, acc_layout)
    mbarrier.wait(q_full.index(0), 0)
    n = 0
    for j in range(n_core):
        acc = _query_step(q_tile, do_tile, k_buf, v_buf, full, free, n, acc, b_lse, b_delta,
                          low * 0, cores, (core_full + j) * BLOCK_K, scale_log2,
                          s_layout, p_layout, True, STAGES)  # fmt: skip
        n += 1
    for j in range(n_left + n_right):
        t = gl.where(j < n_left, j, j + n_full)
        acc = _query_step(q_tile, do_tile, k_buf, v_buf, full, free, n, acc, b_lse, b_delta,
                          low, high, slot + t * BLOCK_K, scale_log2,
                          s_layout, p_layout, True, STAGES)  # fmt: skip
        n += 1
    for _j in range(n_full + core_full):
        acc = _query_step(q_tile, do_tile, k_buf, v_buf, full, free, n, acc, b_lse, b_delta,
                          low, high, 0, scale_log2, s_layout, p_layout, False, STAGES)  # fmt: skip
        n += 1
    # The queries are no longer needed: their tile carries the result out.
    q_tile.store((acc * scale).to(q_buf.dtype))
    hopper.fence_async_shared()
    store(dq, [i_b, i_h, row + C * 64, 0], q_buf.index(C))
    tma.store_wait(0)


@gluon.jit(do_not_specialize=_INTS)
def attend_bwd_queries_hopper_kernel(
    q, k, v, core_k, core_v, do, dq, rows, PADDED, scale, scale_log2,
    H, REP, L, first_raw, position, G, W,
    BLOCK_K: gl.constexpr, BLOCK_D: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    bar: gl.constexpr = mbarrier.MBarrierLayout()
    q_buf = gl.allocate_shared_memory(q.dtype, [CONSUMERS, 1, 1, 64, BLOCK_D], q.layout)
    do_buf = gl.allocate_shared_memory(q.dtype, [CONSUMERS, 1, 1, 64, BLOCK_D], do.layout)
    k_buf = gl.allocate_shared_memory(q.dtype, [STAGES, 1, 1, BLOCK_K, BLOCK_D], k.layout)
    v_buf = gl.allocate_shared_memory(q.dtype, [STAGES, 1, 1, BLOCK_K, BLOCK_D], v.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1, 1], bar)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    mbarrier.init(q_full.index(0), count=1)
    for s in gl.static_range(STAGES):
        mbarrier.init(full.index(s), count=1)
        mbarrier.init(free.index(s), count=CONSUMERS)
    hopper.fence_async_shared()
    inputs = (q, k, v, core_k, core_v, do)
    bufs = (q_buf, do_buf, k_buf, v_buf)
    bars = (q_full, full, free)
    sizes = (H, REP, L, first_raw, position, G, W)
    gl.warp_specialize(
        [
            (_query_consumer, (dq, rows, bufs, bars, sizes, PADDED, scale, scale_log2, 0,
                               BLOCK_K, BLOCK_D, STAGES)),
            (_query_consumer, (dq, rows, bufs, bars, sizes, PADDED, scale, scale_log2, 1,
                               BLOCK_K, BLOCK_D, STAGES)),
            (_query_producer, (inputs, bufs, bars, sizes, BLOCK_K, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


def attend_bwd_queries_hopper(
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
    block_k: int = 128,
    stages: int = 2,
) -> Tensor:
    """Launch the dq kernel on describable tensors; `rows` as attend_bwd_rows makes it."""
    B, H, L, D = q.shape
    block_d = 64 if D <= 64 else 128
    if core_k.shape[2] == 0:
        core_k, core_v = k, v  # no loop reads them, but a descriptor must not be empty
    dq = torch.empty(B, H, L, D, dtype=q.dtype, device=q.device)
    attend_bwd_queries_hopper_kernel[(B * H, -(-L // 128))](
        q=gluon_descriptor(q, 64, block_d),
        k=gluon_descriptor(k, block_k, block_d),
        v=gluon_descriptor(v, block_k, block_d),
        core_k=gluon_descriptor(core_k, block_k, block_d),
        core_v=gluon_descriptor(core_v, block_k, block_d),
        do=gluon_descriptor(do, 64, block_d),
        dq=gluon_descriptor(dq, 64, block_d),
        rows=rows,
        PADDED=rows.shape[3],
        scale=scale,
        scale_log2=scale * LOG2_E.value,
        H=H,
        REP=H // k.shape[1],
        L=L,
        first_raw=position + L - k.shape[2],
        position=position,
        G=group_size,
        W=window,
        BLOCK_K=block_k,
        BLOCK_D=block_d,
        STAGES=stages,
        num_warps=4,
        maxnreg=168,
    )
    return dq
