"""Prefill attention on Hopper: warp-specialised, written in Gluon.

One program a multiprocessor, persistent. One warp loads tiles through the tensor memory
accelerator; each consumer, a warpgroup of four warps, owns 64 rows of queries. A consumer issues
the scores of the next tile and the values of the present one together and does its softmax
meanwhile, and the consumers take turns at the tensor cores, so that one's exponentials hide behind
the other's products.

The masked tiles (prefill_hopper_plan) go first: the loop over the others holds no mask arithmetic.

Shapes as in cca_kernels.api; what it computes: cca_kernels/reference.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from cca_kernels.descriptors import is_describable
from cca_kernels.hopper_primitives import gluon_descriptor, load, store, visible
from cca_kernels.partition import visible_cores
from cca_kernels.prefill_hopper_plan import bounds, masked_tile, place, plan
from cca_kernels.prefill_hopper_softmax import correct, mask, softmax, sums
from cca_kernels.primitives import LN_2, LOG2_E, MASKED

# Not compiled anew for lengths that happen to be one or a multiple of sixteen.
_SIZES = ["items", "n_blocks", "L", "position", "raw_base"]


@gluon.jit
def _load_tile(k, v, b, kv, slot, k_buf, v_buf, k_full, k_free, v_full, v_free, n,
               STAGES: gl.constexpr):  # fmt: skip
    s = n % STAGES
    phase = (n // STAGES) & 1
    mbarrier.wait(k_free.index(s), phase ^ 1)
    mbarrier.expect(k_full.index(s), k.block_type.nbytes)
    load(k, [b, kv, slot, 0], k_full.index(s), k_buf.index(s))
    mbarrier.wait(v_free.index(s), phase ^ 1)
    mbarrier.expect(v_full.index(s), v.block_type.nbytes)
    load(v, [b, kv, slot, 0], v_full.index(s), v_buf.index(s))


@gluon.jit
def _producer(inputs, bufs, bars, sizes, G: gl.constexpr, W: gl.constexpr, BLOCK_K: gl.constexpr,
              STAGES: gl.constexpr, CONSUMERS: gl.constexpr):  # fmt: skip
    """Load queries and tiles of keys and values, in the order in which the consumers want them."""
    BLOCK_Q: gl.constexpr = 64 * CONSUMERS
    q, k, v, core_k, core_v = inputs
    q_buf, _o_buf, k_buf, v_buf = bufs
    q_full, q_free, k_full, k_free, v_full, v_free, _turns = bars
    items, n_blocks, H, KV, _L, position, raw_base = sizes
    n = 0
    turn = 0
    for i in range(gl.program_id(0), items, gl.num_programs(0)):
        b, h, kv, row = place(i, n_blocks, H, KV, BLOCK_Q)
        for c in gl.static_range(CONSUMERS):
            mbarrier.wait(q_free.index(c), (turn & 1) ^ 1)
            mbarrier.expect(q_full.index(c), q.block_type.nbytes)
            load(q, [b, h, row + c * 64, 0], q_full.index(c), q_buf.index(c))
        slot, n_right, n_left, n_edge, n_raw, raw_full, core_full = plan(
            position + row, BLOCK_Q, raw_base, G, W, BLOCK_K
        )
        for j in range(n_right + n_left + n_edge):
            is_core, t = masked_tile(j, n_right, n_left, n_raw, core_full)
            if is_core:
                _load_tile(core_k, core_v, b, kv, t * BLOCK_K, k_buf, v_buf,
                           k_full, k_free, v_full, v_free, n, STAGES)  # fmt: skip
            else:
                _load_tile(k, v, b, kv, slot + t * BLOCK_K, k_buf, v_buf,
                           k_full, k_free, v_full, v_free, n, STAGES)  # fmt: skip
            n += 1
        for j in range(raw_full):
            _load_tile(k, v, b, kv, slot + (n_left + j) * BLOCK_K, k_buf, v_buf,
                       k_full, k_free, v_full, v_free, n, STAGES)  # fmt: skip
            n += 1
        for j in range(core_full):
            _load_tile(core_k, core_v, b, kv, j * BLOCK_K, k_buf, v_buf,
                       k_full, k_free, v_full, v_free, n, STAGES)  # fmt: skip
            n += 1
        turn += 1  # noqa: SIM113 - kernels know no enumerate


@gluon.jit
def _scores(q_tile, k_buf, k_full, turns, n, zero, C: gl.constexpr, CONSUMERS: gl.constexpr,
            STAGES: gl.constexpr, PINGPONG: gl.constexpr):  # fmt: skip
    """Issue the scores of the n-th tile, once it is this consumer's turn."""
    s = n % STAGES
    mbarrier.wait(k_full.index(s), (n // STAGES) & 1)
    if PINGPONG:
        mbarrier.wait(turns.index(C), n & 1)
    tile = k_buf.index(s).reshape([k_buf.shape[3], k_buf.shape[4]]).permute((1, 0))
    score = hopper.warpgroup_mma(q_tile, tile, zero, use_acc=False, is_async=True)
    if PINGPONG == 1:
        mbarrier.arrive(turns.index((C + 1) % CONSUMERS), count=1)
    return score


@gluon.jit
def _values(p, v_buf, v_full, n, acc, STAGES: gl.constexpr):
    """Issue the product of weights and values of the n-th tile."""
    s = n % STAGES
    mbarrier.wait(v_full.index(s), (n // STAGES) & 1)
    tile = v_buf.index(s).reshape([v_buf.shape[3], v_buf.shape[4]])
    return hopper.warpgroup_mma(p, tile, acc, is_async=True)


@gluon.jit
def _step(q_tile, k_buf, v_buf, k_full, k_free, v_full, v_free, turns,
          n, w, acc, m, den, low, high, base, cols, scale,
          s_layout: gl.constexpr, o_layout: gl.constexpr, p_layout: gl.constexpr,
          MASKED: gl.constexpr, C: gl.constexpr, CONSUMERS: gl.constexpr,
          STAGES: gl.constexpr, PINGPONG: gl.constexpr, OVERLAP: gl.constexpr,
          FOLD: gl.constexpr, EARLY: gl.constexpr):  # fmt: skip
    """Take the n-th tile in: its scores beside the values of the tile before it.

    The weights travel in float32 and are rounded here, beside the scores: carried in 16 bits, they
    would be taken apart and packed again.
    """
    zero = gl.full([w.shape[0], w.shape[1]], 0.0, gl.float32, s_layout)
    if EARLY:
        p = gl.convert_layout(w.to(v_buf.dtype), p_layout)
    score = _scores(q_tile, k_buf, k_full, turns, n, zero, C, CONSUMERS, STAGES, PINGPONG)
    if not EARLY:
        p = gl.convert_layout(w.to(v_buf.dtype), p_layout)
    acc = _values(p, v_buf, v_full, n - 1, acc, STAGES)
    if PINGPONG == 2:
        mbarrier.arrive(turns.index((C + 1) % CONSUMERS), count=1)
    s = hopper.warpgroup_mma_wait(1, deps=[score])
    mbarrier.arrive(k_free.index(n % STAGES), count=1)
    if MASKED:
        s = mask(s, low, high, base, cols)
    w, m, alpha = softmax(s, m, scale, FOLD)
    den = correct(den, alpha, FOLD) + sums(w, FOLD)
    # Passed at once, for the values have been there since they were issued; but nothing is moved
    # across a wait like this one, so the exponentials stay in front of the next line and run
    # beside the product that it waits for.
    if OVERLAP:
        mbarrier.wait(v_full.index((n - 1) % STAGES), ((n - 1) // STAGES) & 1)
    acc = hopper.warpgroup_mma_wait(0, deps=[acc])
    mbarrier.arrive(v_free.index((n - 1) % STAGES), count=1)
    acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, o_layout))[:, None]
    return w, acc, m, den


@gluon.jit
def _consumer(outputs, bufs, bars, sizes, scale, C: gl.constexpr,
              G: gl.constexpr, W: gl.constexpr, BLOCK_K: gl.constexpr, BLOCK_D: gl.constexpr,
              STAGES: gl.constexpr, CONSUMERS: gl.constexpr, PINGPONG: gl.constexpr,
              OVERLAP: gl.constexpr, FOLD: gl.constexpr, EARLY: gl.constexpr,
              SHARE: gl.constexpr):  # fmt: skip
    """Attend for 64 rows of every block of queries."""
    BLOCK_Q: gl.constexpr = 64 * CONSUMERS
    o, lse = outputs
    q_buf, o_buf, k_buf, v_buf = bufs
    q_full, q_free, k_full, k_free, v_full, v_free, turns = bars
    items, n_blocks, H, KV, L, position, raw_base = sizes
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_K, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    rows: gl.constexpr = gl.SliceLayout(1, s_layout)
    cols = gl.arange(0, BLOCK_K, gl.SliceLayout(0, s_layout))
    q_tile = q_buf.index(C).reshape([64, BLOCK_D])
    o_tile = o_buf.index(C)
    n = 0
    turn = 0
    for i in range(gl.program_id(0), items, gl.num_programs(0)):
        b, h, _kv, row = place(i, n_blocks, H, KV, BLOCK_Q)
        slot, n_right, n_left, n_edge, n_raw, raw_full, core_full = plan(
            position + row, BLOCK_Q, raw_base, G, W, BLOCK_K
        )
        start = slot + raw_base
        own = row + C * 64
        p_row = position + own + gl.arange(0, 64, rows)
        m_row = visible(p_row, G, W)
        m = gl.full([64], MASKED, gl.float32, rows)
        acc = gl.full([64, BLOCK_D], 0.0, gl.float32, o_layout)

        # The first tile is always a masked one: the last row sees its own key there.
        mbarrier.wait(q_full.index(C), turn & 1)
        zero = gl.full([64, BLOCK_K], 0.0, gl.float32, s_layout)
        score = _scores(q_tile, k_buf, k_full, turns, n, zero, C, CONSUMERS, STAGES, PINGPONG)
        if PINGPONG == 2:
            mbarrier.arrive(turns.index((C + 1) % CONSUMERS), count=1)
        s = hopper.warpgroup_mma_wait(0, deps=[score])
        mbarrier.arrive(k_free.index(n % STAGES), count=1)
        n_masked = n_right + n_left + n_edge
        n_full = raw_full + core_full
        low, high, base = bounds(
            0, n_right, n_left, n_raw, core_full, m_row, p_row, start, G, BLOCK_K
        )
        s = mask(s, low, high, base, cols)
        w, m, _alpha = softmax(s, m, scale, FOLD)
        den = sums(w, FOLD)
        n += 1
        for j in range(1, n_masked):
            low, high, base = bounds(
                j, n_right, n_left, n_raw, core_full, m_row, p_row, start, G, BLOCK_K
            )
            w, acc, m, den = _step(
                q_tile, k_buf, v_buf, k_full, k_free, v_full, v_free, turns,
                n, w, acc, m, den, low, high, base, cols, scale, s_layout, o_layout, p_layout,
                True, C, CONSUMERS, STAGES, PINGPONG, OVERLAP, FOLD, EARLY)  # fmt: skip
            n += 1
        for _j in range(n_full):
            w, acc, m, den = _step(
                q_tile, k_buf, v_buf, k_full, k_free, v_full, v_free, turns,
                n, w, acc, m, den, m_row, m_row, 0, cols, scale, s_layout, o_layout, p_layout,
                False, C, CONSUMERS, STAGES, PINGPONG, OVERLAP, FOLD, EARLY)  # fmt: skip
            n += 1
        if not SHARE:
            mbarrier.arrive(q_free.index(C), count=1)
        p = gl.convert_layout(w.to(v_buf.dtype), p_layout)
        acc = _values(p, v_buf, v_full, n - 1, acc, STAGES)
        acc = hopper.warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(v_free.index((n - 1) % STAGES), count=1)

        total = den
        if FOLD >= 2:
            total = gl.convert_layout(gl.sum(den, 1), rows)
        inverse = gl.convert_layout(1.0 / total, gl.SliceLayout(1, o_layout))
        tma.store_wait(0)
        o_tile.reshape([64, BLOCK_D]).store((acc * inverse[:, None]).to(o_buf.dtype))
        hopper.fence_async_shared()
        store(o, [b, h, own, 0], o_tile)
        if SHARE:
            tma.store_wait(0)
            mbarrier.arrive(q_free.index(C), count=1)
        at = own + gl.arange(0, 64, rows)
        p_lse = lse + (b * H + h).to(gl.int64) * L + at
        gl.store(p_lse, (m * scale + gl.log2(total)) * LN_2, mask=at < L)
        turn += 1  # noqa: SIM113 - kernels know no enumerate
    tma.store_wait(0)


@gluon.jit(do_not_specialize=_SIZES)
def attend_fwd_hopper_kernel(
    q, o, k, v, core_k, core_v, lse,
    items, n_blocks, H, KV, L, position, raw_base, scale,
    G: gl.constexpr, W: gl.constexpr, BLOCK_K: gl.constexpr, BLOCK_D: gl.constexpr,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, PINGPONG: gl.constexpr,
    OVERLAP: gl.constexpr, FOLD: gl.constexpr, EARLY: gl.constexpr, SHARE: gl.constexpr,
):  # fmt: skip
    bar: gl.constexpr = mbarrier.MBarrierLayout()
    dtype: gl.constexpr = q.dtype
    q_buf = gl.allocate_shared_memory(dtype, [CONSUMERS, 1, 1, 64, BLOCK_D], q.layout)
    if SHARE:
        o_buf = q_buf
    else:
        o_buf = gl.allocate_shared_memory(dtype, [CONSUMERS, 1, 1, 64, BLOCK_D], o.layout)
    k_buf = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_K, BLOCK_D], k.layout)
    v_buf = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_K, BLOCK_D], v.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], bar)
    q_free = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], bar)
    turns = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], bar)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    for c in gl.static_range(CONSUMERS):
        mbarrier.init(q_full.index(c), count=1)
        mbarrier.init(q_free.index(c), count=1)
        mbarrier.init(turns.index(c), count=1)
    for s in gl.static_range(STAGES):
        mbarrier.init(k_full.index(s), count=1)
        mbarrier.init(k_free.index(s), count=CONSUMERS)
        mbarrier.init(v_full.index(s), count=1)
        mbarrier.init(v_free.index(s), count=CONSUMERS)
    hopper.fence_async_shared()
    if PINGPONG:
        mbarrier.arrive(turns.index(0), count=1)

    inputs = (q, k, v, core_k, core_v)
    outputs = (o, lse)
    bufs = (q_buf, o_buf, k_buf, v_buf)
    bars = (q_full, q_free, k_full, k_free, v_full, v_free, turns)
    sizes = (items, n_blocks, H, KV, L, position, raw_base)
    if CONSUMERS == 2:
        gl.warp_specialize(
            [
                (_consumer, (outputs, bufs, bars, sizes, scale, 0, G, W, BLOCK_K, BLOCK_D,
                             STAGES, CONSUMERS, PINGPONG, OVERLAP, FOLD, EARLY, SHARE)),
                (_consumer, (outputs, bufs, bars, sizes, scale, 1, G, W, BLOCK_K, BLOCK_D,
                             STAGES, CONSUMERS, PINGPONG, OVERLAP, FOLD, EARLY, SHARE)),
                (_producer, (inputs, bufs, bars, sizes, G, W, BLOCK_K, STAGES, CONSUMERS)),
            ],
            [4, 1],
            [240, 24],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (_consumer, (outputs, bufs, bars, sizes, scale, 0, G, W, BLOCK_K, BLOCK_D,
                             STAGES, CONSUMERS, PINGPONG, OVERLAP, FOLD, EARLY, SHARE)),
                (_consumer, (outputs, bufs, bars, sizes, scale, 1, G, W, BLOCK_K, BLOCK_D,
                             STAGES, CONSUMERS, PINGPONG, OVERLAP, FOLD, EARLY, SHARE)),
                (_consumer, (outputs, bufs, bars, sizes, scale, 2, G, W, BLOCK_K, BLOCK_D,
                             STAGES, CONSUMERS, PINGPONG, OVERLAP, FOLD, EARLY, SHARE)),
                (_producer, (inputs, bufs, bars, sizes, G, W, BLOCK_K, STAGES, CONSUMERS)),
            ],
            [4, 4, 1],
            [160, 160, 24],
        )  # fmt: skip


def can_run(q: Tensor, *others: Tensor) -> bool:
    """Say whether the kernel serves the tensors: 16 bits, D at most 256, in units of 16 bytes."""
    return (
        q.dtype in (torch.bfloat16, torch.float16)
        and q.shape[3] <= 256
        and all(is_describable(t) for t in (q, *others))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperTile:
    """How the kernel cuts and orders its work; found with `cca bench --tune`.

    Attributes:
        block_k: Keys a tile.
        stages: Tiles of keys, and of values, in shared memory.
        consumers: Warpgroups of 64 rows, 2 or 3.
        turns: When a consumer hands the tensor cores on: 0 never, 1 after its scores, 2 after its
            values.
        overlap: Keep the exponentials in front of the wait for the values.
        fold: Fold columns by eights before they are reduced: 0 none, 1 the maxima, 3 the sums too.
        early: Round the weights before the scores are issued rather than after.
        share: Write the output out through the queries' buffer.
    """

    block_k: int = 128
    stages: int = 2
    consumers: int = 2
    turns: int = 2
    overlap: bool = False
    fold: int = 3
    early: bool = False
    share: bool = False


# By padded head dim.
TILES = {
    64: HopperTile(stages=4, turns=1, overlap=True, fold=0),
    128: HopperTile(),
    256: HopperTile(block_k=64, share=True),
}


def attend_fwd_hopper(
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
    tile: HopperTile | None = None,
) -> tuple[Tensor, Tensor]:
    """Launch the kernel on arguments that cca_kernels.api has checked; bf16 or fp16, D <= 256."""
    B, H, L, D = q.shape
    KV, S = k.shape[1:3]
    block_d = max(64, 1 << (D - 1).bit_length())
    tile = tile or TILES[block_d]
    # Laid out as the layers behind want it: heads side by side in a token's row.
    o = torch.empty((B, L, H, D), dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.empty((B, H, L), dtype=torch.float32, device=q.device)
    cores = visible_cores(position + L - 1, group_size=group_size, window=window)
    if not cores:  # a descriptor of nothing is not allowed; no tile of it is ever loaded
        core_k, core_v, cores = k, v, S
    n_blocks = -(-L // (64 * tile.consumers))
    items = n_blocks * B * H
    grid = min(items, torch.cuda.get_device_properties(q.device).multi_processor_count)
    attend_fwd_hopper_kernel[(grid,)](
        gluon_descriptor(q, 64, block_d),
        gluon_descriptor(o, 64, block_d),
        gluon_descriptor(k, tile.block_k, block_d),
        gluon_descriptor(v, tile.block_k, block_d),
        gluon_descriptor(core_k, tile.block_k, block_d, cores),
        gluon_descriptor(core_v, tile.block_k, block_d, cores),
        lse,
        items=items,
        n_blocks=n_blocks,
        H=H,
        KV=KV,
        L=L,
        position=position,
        raw_base=position + L - S,
        scale=scale * LOG2_E.value,
        G=group_size,
        W=window,
        BLOCK_K=tile.block_k,
        BLOCK_D=block_d,
        STAGES=tile.stages,
        CONSUMERS=tile.consumers,
        PINGPONG=tile.turns,
        OVERLAP=tile.overlap,
        FOLD=tile.fold,
        EARLY=tile.early,
        SHARE=tile.share,
        num_warps=4,
        maxnreg=168 if tile.consumers == 2 else 128,
    )
    return o, lse
