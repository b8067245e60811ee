# mypy: disable-error-code="assignment"
"""Group pooling: a program folds a few groups of keys and values into one core token each.

Shapes: k, v [B, KV, L, D]; anchor [B, KV, M, D]; core_k, core_v [B, KV, M, D]; M = L // G.
What it computes: cca_kernels/reference.py. Why it is right: docs/method.md.

The tokens of a group are a tuple of tiles [groups, D], tile g with token g of every group. So a
thread holds all tokens of its groups whatever layout Triton gives a tile, the softmax and the
weighted sums stay inside the thread, and only scores are summed over the lanes of a token.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cca_kernels.primitives import LOG2_E

# Tokens of a group that a thread holds at a time: 64 registers each for k and v in two bytes.
_CHUNK = 16
_WARPS = 4


@triton.jit
def mean_of_heads(p_q, head_stride, mask, REP: tl.constexpr, DTYPE: tl.constexpr):
    """Average the queries of REP heads in float32 and round the mean to DTYPE."""
    b_a = tl.load(p_q, mask=mask, other=0.0).to(tl.float32)
    for r in tl.static_range(1, REP):
        b_a += tl.load(p_q + r * tl.cast(head_stride, tl.int64), mask=mask, other=0.0).to(
            tl.float32
        )
    if REP > 1:
        b_a = b_a / REP
    return b_a.to(DTYPE).to(tl.float32)


@triton.jit
def _tokens(p, start, stride, mask, G: tl.constexpr, CHUNK: tl.constexpr):
    """Load tokens start .. start + CHUNK - 1 of every group, a tuple of tiles."""
    tiles = ()
    for g in tl.static_range(CHUNK):
        m_g = mask & (start + g < G) if G % CHUNK != 0 else mask
        tiles = tiles + (tl.load(p + (start + g) * stride, mask=m_g, other=0.0),)  # noqa: RUF005
    return tiles


@triton.jit
def _scores(b_k, b_a, start, G: tl.constexpr, CHUNK: tl.constexpr):
    """Score every token of a chunk, and give the largest score: -inf past the end of a group."""
    scores = ()
    b_top = tl.full([b_a.shape[0]], float("-inf"), tl.float32)
    for g in tl.static_range(CHUNK):
        b_s = tl.sum(b_k[g].to(tl.float32) * b_a, axis=1)
        if G % CHUNK != 0:
            b_s = tl.where(start + g < G, b_s, float("-inf"))
        scores = scores + (b_s,)  # noqa: RUF005
        b_top = tl.maximum(b_top, b_s)
    return scores, b_top


@triton.jit
def _weight_gradients(b_k, b_v, b_dck, b_dcv, CHUNK: tl.constexpr):
    """Give the gradient of every token's weight in a chunk."""
    gradients = ()
    for g in tl.static_range(CHUNK):
        b_dw = b_k[g].to(tl.float32) * b_dck + b_v[g].to(tl.float32) * b_dcv
        gradients = gradients + (tl.sum(b_dw, axis=1),)  # noqa: RUF005
    return gradients


# Lengths must not compile the kernels anew.
@triton.jit(do_not_specialize=["M"])
def pool_fwd_kernel(
    k,
    v,
    q,
    core_k,
    core_v,
    k_strides,
    v_strides,
    q_strides,
    core_k_strides,
    core_v_strides,
    M,
    scale,
    KV: tl.constexpr,
    REP: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_m, i_bh = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // KV, i_bh % KV
    o_m = i_m * BLOCK_M + tl.arange(0, BLOCK_M)
    o_d = tl.arange(0, BLOCK_D)
    m_md = (o_m < M)[:, None] & (o_d < D)[None, :]

    p_q = q + i_b * q_strides[0] + i_h * REP * q_strides[1]
    p_q += o_m[:, None] * q_strides[2] + o_d[None, :]
    b_a = mean_of_heads(p_q, q_strides[1], m_md, REP, q.dtype.element_ty)  # [BLOCK_M, D]
    b_a *= scale * LOG2_E

    b_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    b_ck = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    b_cv = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    p_k = k + i_b * k_strides[0] + i_h * k_strides[1]
    p_v = v + i_b * v_strides[0] + i_h * v_strides[1]
    p_k += o_m[:, None] * G * k_strides[2] + o_d[None, :]
    p_v += o_m[:, None] * G * v_strides[2] + o_d[None, :]
    # One round where a group fits the registers; the rescaling then multiplies zeros.
    for start in range(0, G, CHUNK):
        b_k = _tokens(p_k, start, k_strides[2], m_md, G, CHUNK)
        b_v = _tokens(p_v, start, v_strides[2], m_md, G, CHUNK)
        b_s, b_top = _scores(b_k, b_a, start, G, CHUNK)
        b_top = tl.maximum(b_max, b_top)
        b_keep = tl.exp2(b_max - b_top)
        b_max = b_top
        b_sum *= b_keep
        b_ck *= b_keep[:, None]
        b_cv *= b_keep[:, None]
        for g in tl.static_range(CHUNK):
            b_p = tl.exp2(b_s[g] - b_top)
            b_sum += b_p
            b_ck += b_p[:, None] * b_k[g].to(tl.float32)
            b_cv += b_p[:, None] * b_v[g].to(tl.float32)

    b_norm = 1.0 / b_sum[:, None]
    p_ck = core_k + i_b * core_k_strides[0] + i_h * core_k_strides[1]
    p_cv = core_v + i_b * core_v_strides[0] + i_h * core_v_strides[1]
    p_ck += o_m[:, None] * core_k_strides[2] + o_d[None, :]
    p_cv += o_m[:, None] * core_v_strides[2] + o_d[None, :]
    tl.store(p_ck, (b_ck * b_norm).to(core_k.dtype.element_ty), mask=m_md)
    tl.store(p_cv, (b_cv * b_norm).to(core_v.dtype.element_ty), mask=m_md)


@triton.jit(do_not_specialize=["L", "M"])
def pool_bwd_kernel(
    k,
    v,
    anchor,
    dcore_k,
    dcore_v,
    dk,
    dv,
    danchor,
    k_strides,
    v_strides,
    anchor_strides,
    dcore_k_strides,
    dcore_v_strides,
    dkv_strides,
    L,
    M,
    scale,
    KV: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_m, i_bh = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // KV, i_bh % KV
    o_m = i_m * BLOCK_M + tl.arange(0, BLOCK_M)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    m_md = (o_m < M)[:, None] & m_d[None, :]
    o_md = o_m[:, None]

    # Groups from M on are the tail: their gradients are loaded as zeros, so zeros are stored.
    p_a = anchor + i_b * anchor_strides[0] + i_h * anchor_strides[1] + o_md * anchor_strides[2]
    p_dck = dcore_k + i_b * dcore_k_strides[0] + i_h * dcore_k_strides[1]
    p_dcv = dcore_v + i_b * dcore_v_strides[0] + i_h * dcore_v_strides[1]
    p_dck += o_md * dcore_k_strides[2] + o_d[None, :]
    p_dcv += o_md * dcore_v_strides[2] + o_d[None, :]
    b_a = tl.load(p_a + o_d[None, :], mask=m_md, other=0.0).to(tl.float32)
    b_dck = tl.load(p_dck, mask=m_md, other=0.0).to(tl.float32)
    b_dcv = tl.load(p_dcv, mask=m_md, other=0.0).to(tl.float32)

    p_k = k + i_b * k_strides[0] + i_h * k_strides[1] + o_md * G * k_strides[2] + o_d[None, :]
    p_v = v + i_b * v_strides[0] + i_h * v_strides[1] + o_md * G * v_strides[2] + o_d[None, :]
    o_kv = i_b * dkv_strides[0] + i_h * dkv_strides[1] + o_md * G * dkv_strides[2] + o_d[None, :]
    b_scaled = b_a * (scale * LOG2_E)

    b_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    b_delta = tl.zeros([BLOCK_M], tl.float32)  # sum of weight * gradient of the weight
    if G > CHUNK:  # a group that does not fit the registers is read twice
        for start in range(0, G, CHUNK):
            b_k = _tokens(p_k, start, k_strides[2], m_md, G, CHUNK)
            b_v = _tokens(p_v, start, v_strides[2], m_md, G, CHUNK)
            b_s, b_top = _scores(b_k, b_scaled, start, G, CHUNK)
            b_dw = _weight_gradients(b_k, b_v, b_dck, b_dcv, CHUNK)
            b_top = tl.maximum(b_max, b_top)
            b_keep = tl.exp2(b_max - b_top)
            b_max = b_top
            b_sum *= b_keep
            b_delta *= b_keep
            for g in tl.static_range(CHUNK):
                b_p = tl.exp2(b_s[g] - b_top)
                b_sum += b_p
                b_delta += b_p * b_dw[g]

    b_da = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, G, CHUNK):
        b_k = _tokens(p_k, start, k_strides[2], m_md, G, CHUNK)
        b_v = _tokens(p_v, start, v_strides[2], m_md, G, CHUNK)
        b_s, b_top = _scores(b_k, b_scaled, start, G, CHUNK)
        b_dw = _weight_gradients(b_k, b_v, b_dck, b_dcv, CHUNK)
        if G <= CHUNK:
            b_max = b_top
            for g in tl.static_range(CHUNK):
                b_p = tl.exp2(b_s[g] - b_top)
                b_sum += b_p
                b_delta += b_p * b_dw[g]
        b_mean = b_delta / b_sum
        for g in tl.static_range(CHUNK):
            b_w = tl.exp2(b_s[g] - b_max) / b_sum
            b_ds = b_w * (b_dw[g] - b_mean) * scale
            b_da += b_ds[:, None] * b_k[g].to(tl.float32)
            b_dk = b_w[:, None] * b_dck + b_ds[:, None] * b_a
            b_dv = b_w[:, None] * b_dcv
            m_l = (start + g < G) & (o_md * G + start + g < L) & m_d[None, :]
            o_g = o_kv + (start + g) * dkv_strides[2]
            tl.store(dk + o_g, b_dk.to(dk.dtype.element_ty), mask=m_l)
            tl.store(dv + o_g, b_dv.to(dv.dtype.element_ty), mask=m_l)
    tl.store(
        danchor + (i_bh * M + o_m[:, None]) * D + o_d[None, :],
        b_da.to(danchor.dtype.element_ty),
        mask=m_md,
    )


def _blocks(k: Tensor, group_size: int) -> dict[str, int]:
    """Choose the tile: each thread loads sixteen bytes of one token at a time."""
    block_d = max(16, triton.next_power_of_2(k.shape[-1]))
    rows = _WARPS * 32 * 16 // (block_d * k.element_size())
    return {"CHUNK": min(group_size, _CHUNK), "BLOCK_M": max(1, rows), "BLOCK_D": block_d}


def _pool(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    group_size: int,
    scale: float,
    out: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Launch with one query per group and query head, q [B, H, M, D]."""
    B, KV, L, D = k.shape
    M = L // group_size
    if out is None:
        core_k, core_v = k.new_empty(B, KV, M, D), v.new_empty(B, KV, M, D)
    else:
        core_k, core_v = out
    if M == 0:
        return core_k, core_v
    blocks = _blocks(k, group_size)
    pool_fwd_kernel[(triton.cdiv(M, blocks["BLOCK_M"]), B * KV)](
        k,
        v,
        q,
        core_k,
        core_v,
        k_strides=k.stride()[:3],
        v_strides=v.stride()[:3],
        q_strides=q.stride()[:3],
        core_k_strides=core_k.stride()[:3],
        core_v_strides=core_v.stride()[:3],
        M=M,
        scale=scale,
        KV=KV,
        REP=q.shape[1] // KV,
        G=group_size,
        D=D,
        **blocks,
        num_warps=_WARPS,
    )
    return core_k, core_v


def pool_fwd(
    k: Tensor,
    v: Tensor,
    anchor: Tensor,
    *,
    group_size: int,
    scale: float,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Fold every group with its anchor; arguments as in cca_kernels.api, already checked.

    Args:
        k: Keys, [B, KV, L, D]; a tail shorter than a group is left out.
        v: Values, like k.
        anchor: The pooling query of each group, [B, KV, M, D].
        group_size: Tokens per group, G.
        scale: Factor on the scores.
        out: Where core keys and values go, each [B, KV, M, D] of any strides; new ones by default.

    Returns:
        Core keys and core values.
    """
    return _pool(anchor, k, v, group_size=group_size, scale=scale, out=out)


def pool_queries_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    first: int,
    group_size: int,
    scale: float,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Fold every group with the mean of its queries, taken inside the kernel.

    Args:
        q: Rotated queries, [B, H, Lq, D].
        k: Keys, [B, KV, L, D], that begin where a group begins; a shorter tail is left out.
        v: Values, like k.
        first: Index in q of the first group's last token.
        group_size: Tokens per group, G.
        scale: Factor on the scores.
        out: Where core keys and values go, each [B, KV, M, D] of any strides; new ones by default.

    Returns:
        Core keys and core values, each [B, KV, L // G, D].
    """
    last = q[:, :, first::group_size]  # [B, H, >= M, D]
    return _pool(last, k, v, group_size=group_size, scale=scale, out=out)


def pool_bwd(
    k: Tensor,
    v: Tensor,
    anchor: Tensor,
    core_k: Tensor,
    core_v: Tensor,
    dcore_k: Tensor,
    dcore_v: Tensor,
    *,
    group_size: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the gradients of keys, values and anchors; the weights are computed again.

    The core tokens are not read: what they are needed for, the weighted mean of the weights'
    gradients, comes out more exact from the keys and values, which are in registers anyway.

    Returns:
        dk and dv [B, KV, L, D], zero in the tail, and danchor [B, KV, M, D]; all contiguous.
    """
    B, KV, L, D = k.shape
    M = L // group_size
    dk, dv = torch.empty_like(k, memory_format=torch.contiguous_format), v.new_empty(B, KV, L, D)
    danchor = anchor.new_empty(B, KV, M, D)
    dcore_k, dcore_v = (t if t.stride(-1) == 1 else t.contiguous() for t in (dcore_k, dcore_v))
    blocks = _blocks(k, group_size)
    pool_bwd_kernel[(triton.cdiv(triton.cdiv(L, group_size), blocks["BLOCK_M"]), B * KV)](
        k,
        v,
        anchor,
        dcore_k,
        dcore_v,
        dk,
        dv,
        danchor,
        k_strides=k.stride()[:3],
        v_strides=v.stride()[:3],
        anchor_strides=anchor.stride()[:3],
        dcore_k_strides=dcore_k.stride()[:3],
        dcore_v_strides=dcore_v.stride()[:3],
        dkv_strides=dk.stride()[:3],
        L=L,
        M=M,
        scale=scale,
        KV=KV,
        G=group_size,
        D=D,
        **blocks,
        num_warps=_WARPS,
    )
    return dk, dv, danchor
