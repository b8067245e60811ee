"""The public operations: defaults, checks, choice of implementation.

Each operation has one signature whatever runs it. `impl="auto"` takes the fastest implementation
for the tensors' device; a named one that cannot run raises, nothing falls back in silence.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from cca_kernels import blocked, checks, cpu, reference
from cca_kernels.devices import on_device

Impl = Literal["auto", "torch", "triton"]


def group_anchors(q: Tensor, *, kv_heads: int) -> Tensor:
    """Make the pooling queries: the mean over the query heads that share a KV head.

    Args:
        q: Rotated queries at the last token of each group, [B, H, M, D].
        kv_heads: KV; must divide H.

    Returns:
        The anchors, [B, KV, M, D].

    Raises:
        ValueError: If the heads do not divide.
    """
    checks.grouped(q, kv_heads)
    return reference.group_anchors(q, kv_heads=kv_heads)


def pool_groups(
    k: Tensor,
    v: Tensor,
    anchor: Tensor,
    *,
    group_size: int,
    scale: float | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Fold every group of keys and values into one core token.

    Args:
        k: Rotated keys, [B, KV, L, D]; a tail shorter than a group is left out.
        v: Values, like k.
        anchor: The pooling query of each group, [B, KV, L // G, D].
        group_size: Tokens per group, G.
        scale: Factor on the scores, above 0; D ** -0.5 by default.
        impl: Which implementation runs.

    Returns:
        Core keys and core values, each [B, KV, L // G, D], in the dtype of k.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit, or L < group_size.
        RuntimeError: If the named implementation cannot run here.
    """
    checks.pooling(k, v, anchor, group_size=group_size)
    scale = _scale(scale, k)
    k, v, anchor = _rows(k, v, anchor)
    if checks.implementation(impl, k) == "triton":
        with on_device(k.device):
            if _needs_grad(k, v, anchor):
                from cca_kernels.functions import PoolGroups

                core_k, core_v = PoolGroups.apply(k, v, anchor, group_size, scale)
                return core_k, core_v
            from cca_kernels.pooling import pool_fwd

            return pool_fwd(k, v, anchor, group_size=group_size, scale=scale)
    if k.dtype in (torch.float32, torch.float64):
        return reference.pool_groups(k, v, anchor, group_size=group_size, scale=scale)
    core_k, core_v = reference.pool_groups(
        k.float(), v.float(), anchor.float(), group_size=group_size, scale=scale
    )
    return core_k.to(k.dtype), core_v.to(v.dtype)


def pool_queries(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    first: int,
    group_size: int,
    scale: float | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Fold every group, with the pooling queries taken from the queries themselves.

    What `group_anchors` and `pool_groups` do together, in one pass on a GPU.

    Args:
        q: Rotated queries, [B, H, L, D].
        k: Rotated keys of whole groups, [B, KV, M * G, D]; a tail is left out.
        v: Values, like k.
        first: Index in q of the last token of the first group; the others follow every G.
        group_size: Tokens per group, G.
        scale: Factor on the scores, above 0; D ** -0.5 by default.
        impl: Which implementation runs.

    Returns:
        Core keys and core values, each [B, KV, M, D].

    Raises:
        ValueError: If shapes, dtypes or devices do not fit, or q ends before the last group.
        RuntimeError: If the named implementation cannot run here.
    """
    checks.pooled_queries(first, group_size)
    checks.grouped(q, k.shape[1])
    M = k.shape[2] // group_size
    last_tokens = q[:, :, first::group_size][:, :, :M]
    checks.pooling(k, v, last_tokens[:, : k.shape[1]], group_size=group_size)
    scale = _scale(scale, k)
    q, k, v = _rows(q, k, v)
    if checks.implementation(impl, k) == "triton" and not _needs_grad(q, k, v):
        from cca_kernels.pooling import pool_queries_fwd

        with on_device(k.device):
            return pool_queries_fwd(q, k, v, first=first, group_size=group_size, scale=scale)
    anchor = group_anchors(last_tokens, kv_heads=k.shape[1])
    return pool_groups(k, v, anchor, group_size=group_size, scale=scale, impl=impl)


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
    scale: float | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Attend from a chunk of queries to a memory of core tokens and raw tokens, in one softmax.

    The query at position p sees the first m(p) = max(0, (p + 1 - W) // G) core tokens and the raw
    tokens from m(p) * G up to p.

    Args:
        q: Rotated queries at positions `position` .. `position + L - 1`, [B, H, L, D].
        k: Rotated raw keys that end where the queries end, [B, KV, S, D]; they must reach back to
            what the first query sees, m(position) * G.
        v: Raw values, like k.
        core_k: Core keys of the first M groups, [B, KV, M, D], M at least m(position + L - 1).
        core_v: Core values, like core_k.
        position: Position of the first query, from 0.
        group_size: Tokens per group, G.
        window: Raw tokens that every query sees at least, W.
        scale: Factor on the scores, above 0; D ** -0.5 by default.
        impl: Which implementation runs.

    Returns:
        The output [B, H, L, D] in the dtype of q, and the log-sum-exp of the scaled scores
        [B, H, L] in float32 (float64 for float64 inputs).

    Raises:
        ValueError: If shapes, dtypes, devices or the reach of the keys do not fit.
        RuntimeError: If the named implementation cannot run here.
    """
    checks.attention(
        q, k, v, core_k, core_v, position=position, group_size=group_size, window=window
    )
    scale = _scale(scale, q)
    q, k, v, core_k, core_v = _rows(q, k, v, core_k, core_v)
    if checks.implementation(impl, q) == "triton":
        return _attend_triton(
            q, k, v, core_k, core_v, position=position, group_size=group_size, window=window,
            scale=scale,
        )  # fmt: skip
    run = cpu.attend if _plain_cpu(q, k, v, core_k, core_v) else blocked.attend
    return run(
        q, k, v, core_k, core_v, position=position, group_size=group_size, window=window,
        scale=scale,
    )  # fmt: skip


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
    scale: float | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Attend from one to sixteen new tokens: `attend`, laid out for few queries and many keys.

    Args, results and errors are those of `attend`; more than sixteen queries raise ValueError.
    """
    if q.dim() == 4 and q.shape[2] > 16:
        raise ValueError(f"expected at most 16 queries, got {q.shape[2]}; use attend")
    checks.attention(
        q, k, v, core_k, core_v, position=position, group_size=group_size, window=window
    )
    scale = _scale(scale, q)
    q, k, v, core_k, core_v = _rows(q, k, v, core_k, core_v)
    if checks.implementation(impl, q) == "triton":
        options: dict[str, Any] = {
            "position": position, "group_size": group_size, "window": window, "scale": scale
        }  # fmt: skip
        if _needs_grad(q, k, v, core_k, core_v):
            return _attend_triton(q, k, v, core_k, core_v, **options)
        from cca_kernels.decoding import decode_fwd

        with on_device(q.device):
            return decode_fwd(q, k, v, core_k, core_v, **options)
    run = cpu.decode if _plain_cpu(q, k, v, core_k, core_v) else blocked.decode
    return run(
        q, k, v, core_k, core_v, position=position, group_size=group_size, window=window,
        scale=scale,
    )  # fmt: skip


def _attend_triton(
    q: Tensor, k: Tensor, v: Tensor, core_k: Tensor, core_v: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """Run the kernels; what a backward pass reads is kept only where there will be one."""
    with on_device(q.device):
        if _needs_grad(q, k, v, core_k, core_v):
            from cca_kernels.functions import Attend

            o, lse = Attend.apply(
                q, k, v, core_k, core_v,
                options["position"], options["group_size"], options["window"], options["scale"],
            )  # fmt: skip
            return o, lse
        from cca_kernels.prefill_forward import attend_fwd

        return attend_fwd(q, k, v, core_k, core_v, **options)


def _scale(scale: float | None, k: Tensor) -> float:
    """Fill the default in, and check."""
    if scale is None:
        return float(k.shape[-1] ** -0.5)
    checks.scaling(scale)
    return scale


def _rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Give tensors whose last axis is contiguous, which every fast implementation relies on."""
    return tuple(t if t.stride(-1) == 1 else t.contiguous() for t in tensors)


def _needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _plain_cpu(*tensors: Tensor) -> bool:
    """Say whether the CPU's inference path applies: it keeps nothing for a backward pass."""
    return tensors[0].device.type == "cpu" and not _needs_grad(*tensors)
