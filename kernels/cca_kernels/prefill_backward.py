"""Backward of the prefill attention: the launcher, and the two numbers that every row needs.

Shapes as in cca_kernels.api.attend; do like o, dlse like lse. The scores are computed anew from q,
k and the log-sum-exp, as exp2(qk * scale * log2(e) - lse * log2(e)). Each gradient element belongs
to one program that adds in a fixed order: no atomics, the same bits in every run. The derivation
is in docs/method.md, the queries' side in prefill_backward_queries, the keys' side in
prefill_backward_keys.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cca_kernels.descriptors import describable
from cca_kernels.devices import architecture
from cca_kernels.prefill_backward_keys import attend_bwd_keys
from cca_kernels.prefill_backward_queries import attend_bwd_queries
from cca_kernels.primitives import LOG2_E

# Rows behind the last query that a tile may touch: no tile is taller.
_ROW_PADDING = 128


@triton.jit(do_not_specialize=["H", "L", "PADDED"])
def attend_bwd_rows_kernel(
    o,
    do,
    lse,
    dlse,
    rows,
    o_strides,
    do_strides,
    H,
    L,
    PADDED,
    log2_e,
    HAS_DLSE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_bh = tl.program_id(0).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o_l = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L).to(tl.int64)
    o_d = tl.arange(0, BLOCK_D)
    m_l = o_l < L
    m_ld = m_l[:, None] & (o_d < D)[None, :]

    p_o = o + i_b * o_strides[0] + i_h * o_strides[1] + o_l[:, None] * o_strides[2] + o_d[None, :]
    b_o = tl.load(p_o, mask=m_ld, other=0.0).to(tl.float32)  # [L, D]
    p_do = do + i_b * do_strides[0] + i_h * do_strides[1] + o_l[:, None] * do_strides[2]
    b_do = tl.load(p_do + o_d[None, :], mask=m_ld, other=0.0).to(tl.float32)  # [L, D]
    b_delta = tl.sum(b_o * b_do, axis=1)  # [L]
    if HAS_DLSE:
        b_delta -= tl.load(dlse + i_bh * L + o_l, mask=m_l, other=0.0)
    # A row behind the last query weighs nothing: exp2(0 - inf).
    b_lse = tl.load(lse + i_bh * L + o_l, mask=m_l, other=float("inf")) * log2_e

    p_rows = rows + i_bh * 2 * PADDED + o_l
    tl.store(p_rows, b_lse, mask=o_l < PADDED)
    tl.store(p_rows + PADDED, b_delta, mask=o_l < PADDED)


def attend_bwd_rows(o: Tensor, lse: Tensor, do: Tensor, dlse: Tensor | None) -> Tensor:
    """Compute what every query row needs, in float32 and padded with rows of no weight.

    Returns:
        [B, H, 2, L + padding]: the log-sum-exp in base 2, and sum(do * o) - dlse.
    """
    B, H, L, D = o.shape
    padded = triton.cdiv(L, _ROW_PADDING) * _ROW_PADDING + _ROW_PADDING
    rows = torch.empty(B, H, 2, padded, dtype=torch.float32, device=o.device)
    block_d = triton.next_power_of_2(D)
    block_l = max(16, 8192 // block_d)
    attend_bwd_rows_kernel[(B * H, triton.cdiv(padded, block_l))](
        o=o,
        do=do,
        lse=lse.contiguous(),
        dlse=lse if dlse is None else dlse.float().contiguous(),
        rows=rows,
        o_strides=o.stride()[:3],
        do_strides=do.stride()[:3],
        H=H,
        L=L,
        PADDED=padded,
        log2_e=LOG2_E.value,
        HAS_DLSE=dlse is not None,
        D=D,
        BLOCK_L=block_l,
        BLOCK_D=block_d,
        num_warps=8,
    )
    return rows


def attend_bwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    core_k: Tensor,
    core_v: Tensor,
    o: Tensor,
    lse: Tensor,
    do: Tensor,
    dlse: Tensor | None,
    *,
    position: int,
    group_size: int,
    window: int,
    scale: float,
    need: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Compute the gradients of `attend` from its results.

    Args:
        q: Queries; like k, v, core_k and core_v as they went into the forward pass.
        k: Raw keys.
        v: Raw values.
        core_k: Core keys.
        core_v: Core values.
        o: The output of the forward pass, [B, H, L, D].
        lse: The log-sum-exp of the forward pass, natural, float32 [B, H, L].
        do: Gradient of o, any strides.
        dlse: Gradient of lse, or None for zero.
        position: Position of the first query.
        group_size: Tokens per group, G.
        window: Raw tokens that every query sees at least, W.
        scale: Factor on the scores.
        need: Whether the gradients of the queries, of the raw and of the core tokens are needed.

    Returns:
        dq, dk, dv, dcore_k and dcore_v; None where not needed.
    """
    q, k, v, core_k, core_v, do = (describable(t) for t in (q, k, v, core_k, core_v, do))
    rows = attend_bwd_rows(o if o.stride(-1) == 1 else o.contiguous(), lse, do, dlse)
    options: dict[str, Any] = {
        "position": position, "group_size": group_size, "window": window, "scale": scale
    }  # fmt: skip
    queries: Callable[..., Tensor] = attend_bwd_queries
    keys: Callable[..., tuple[Tensor, Tensor]] = attend_bwd_keys
    if architecture(q.device) == "hopper":
        # Imported here, for Gluon's Hopper modules are of no use anywhere else.
        from cca_kernels import prefill_backward_hopper, prefill_backward_keys_hopper

        if prefill_backward_hopper.can_run(q, scale):
            queries = prefill_backward_hopper.attend_bwd_queries_hopper
            keys = prefill_backward_keys_hopper.attend_bwd_keys_hopper
    dq = dk = dv = dcore_k = dcore_v = None
    if need[0]:
        dq = queries(q, k, v, core_k, core_v, do, rows, **options)
    if need[2]:
        dcore_k, dcore_v = keys(q, core_k, core_v, do, rows, core=True, **options)
    if need[1]:
        dk, dv = keys(q, k, v, do, rows, core=False, **options)
    return dq, dk, dv, dcore_k, dcore_v
