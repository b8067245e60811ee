"""Attention on the CPU, for inference: two calls of torch's flash kernel, joined exactly.

All queries of a chunk see the core tokens that its first query sees, so these need no mask and one
call does them. What is left, the few core tokens that become visible within the chunk and the raw
window, goes block by block with a mask. Each call returns its log-sum-exp, and two softmaxes with
their log-sum-exps are one softmax. Memory is that of the chunk, whatever the length.
"""

from functools import lru_cache

import torch
from torch import Tensor

from cca_kernels.partition import query_blocks, visible_cores
from cca_kernels.reference import visibility

# Short blocks waste less of the window (a block of b queries reads W + G + b raw keys), long ones
# cost fewer calls. Measured on 4 cores with D = 64: 128 and 256 are level, 512 is slower.
_BLOCK = 128


# Looked up once: choosing the overload costs a tenth of a millisecond, at every call of a layer.
_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


@lru_cache(maxsize=32)
def _bias(
    *,
    position: int,
    L: int,
    S: int,
    shared: int,
    cores: int,
    group_size: int,
    window: int,
    dtype: torch.dtype,
) -> Tensor:
    """Make a block's additive mask, [L, cores - shared + S]: every layer asks for the same few."""
    seen = visibility(
        position=position,
        L=L,
        S=S,
        M=cores,
        group_size=group_size,
        window=window,
        device=torch.device("cpu"),
    )[:, shared:]
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))


def _flash(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Call torch's CPU flash kernel: output [B, H, L, D] and log-sum-exp [B, H, L]."""
    out: tuple[Tensor, Tensor] = _KERNEL(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
    return out


def _merge(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Join two softmaxes over disjoint keys into one."""
    lse = torch.logaddexp(a[1], b[1])
    left = torch.exp(a[1] - lse)[..., None].to(a[0].dtype)
    right = torch.exp(b[1] - lse)[..., None].to(b[0].dtype)
    return a[0] * left + b[0] * right, lse


def attend(
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
) -> tuple[Tensor, Tensor]:
    """Attend from a chunk to its memory; arguments as in cca_kernels.api, already checked."""
    shared = visible_cores(position, group_size=group_size, window=window)
    outs, lses = [], []
    for rows, cores, raw in query_blocks(
        position, q.shape[2], k.shape[2], block=_BLOCK, group_size=group_size, window=window
    ):
        keys = torch.cat([core_k[:, :, shared:cores], k[:, :, raw]], dim=2)
        values = torch.cat([core_v[:, :, shared:cores], v[:, :, raw]], dim=2)
        bias = _bias(
            position=position + rows.start, L=rows.stop - rows.start, S=raw.stop - raw.start,
            shared=shared, cores=cores, group_size=group_size, window=window, dtype=q.dtype,
        )  # fmt: skip
        o, lse = _flash(q[:, :, rows], keys, values, scale, bias)
        outs.append(o)
        lses.append(lse)
    near = (torch.cat(outs, dim=2), torch.cat(lses, dim=2))
    if shared == 0:
        return near
    return _merge(_flash(q, core_k[:, :, :shared], core_v[:, :, :shared], scale), near)


def decode(
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
) -> tuple[Tensor, Tensor]:
    """Attend from a few queries; a single one needs neither a mask nor a copy of its keys."""
    S = k.shape[2]
    if q.shape[2] > 1:
        return attend(
            q, k, v, core_k, core_v,
            position=position, group_size=group_size, window=window, scale=scale,
        )  # fmt: skip
    cores = visible_cores(position, group_size=group_size, window=window)
    start = cores * group_size - (position + 1 - S)
    near = _flash(q, k[:, :, start:], v[:, :, start:], scale)
    if cores == 0:
        return near
    return _merge(_flash(q, core_k[:, :, :cores], core_v[:, :, :cores], scale), near)
