"""Argument checks of the public operations; called once, at the edge."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from cca_kernels.devices import has_kernels
from cca_kernels.partition import raw_start, visible_cores


def _expect(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def settings(group_size: int, window: int) -> None:
    """Check the group size and the window."""
    _expect(group_size >= 1, f"expected group_size >= 1, got {group_size}")
    _expect(window >= 1, f"expected window >= 1, got {window}")


def same_kind(*tensors: Tensor) -> None:
    """Check that all tensors have four axes, one floating dtype and one device."""
    first = tensors[0]
    for t in tensors:
        _expect(t.dim() == 4, f"expected 4 axes, got shape {tuple(t.shape)}")
        _expect(t.dtype == first.dtype, f"expected dtype {first.dtype}, got {t.dtype}")
        _expect(t.device == first.device, f"expected device {first.device}, got {t.device}")
    _expect(first.dtype.is_floating_point, f"expected a floating dtype, got {first.dtype}")


def pooling(k: Tensor, v: Tensor, anchor: Tensor, *, group_size: int) -> None:
    """Check the arguments of pool_groups."""
    settings(group_size, 1)
    same_kind(k, v, anchor)
    B, KV, L, D = k.shape
    _expect(v.shape == k.shape, f"expected v {tuple(k.shape)} like k, got {tuple(v.shape)}")
    _expect(group_size <= L, f"expected at least one group of {group_size} keys, got {L}")
    want = (B, KV, L // group_size, D)
    _expect(tuple(anchor.shape) == want, f"expected anchor {want}, got {tuple(anchor.shape)}")


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    core_k: Tensor,
    core_v: Tensor,
    *,
    position: int,
    group_size: int,
    window: int,
) -> None:
    """Check the arguments of attend and decode."""
    settings(group_size, window)
    same_kind(q, k, v, core_k, core_v)
    B, H, L, D = q.shape
    KV, S, M = k.shape[1], k.shape[2], core_k.shape[2]
    _expect(v.shape == k.shape, f"expected v {tuple(k.shape)} like k, got {tuple(v.shape)}")
    _expect(
        k.shape[0] == B and k.shape[3] == D,
        f"expected k [{B}, KV, S, {D}] for q {tuple(q.shape)}, got {tuple(k.shape)}",
    )
    _expect(KV > 0 and H % KV == 0, f"expected query heads a multiple of {KV}, got {H}")
    want = (B, KV, M, D)
    _expect(
        tuple(core_k.shape) == want and core_v.shape == core_k.shape,
        f"expected core_k and core_v {want}, got {tuple(core_k.shape)}, {tuple(core_v.shape)}",
    )
    _expect(L >= 1, "expected at least one query, got 0")
    _expect(position >= 0, f"expected position >= 0, got {position}")
    first_raw = position + L - S
    need = raw_start(position, group_size=group_size, window=window)
    _expect(
        0 <= first_raw <= need,
        f"expected raw keys from position {need} or before, got them from {first_raw}",
    )
    cores = visible_cores(position + L - 1, group_size=group_size, window=window)
    _expect(cores <= M, f"expected at least {cores} core tokens, got {M}")


def scaling(scale: float) -> None:
    """Check the factor on the scores: a maximum found before scaling must stay one after it."""
    _expect(scale > 0, f"expected scale > 0, got {scale}")


def pooled_queries(first: int, group_size: int) -> None:
    """Check where the pooling queries are taken from."""
    settings(group_size, 1)
    _expect(first >= 0, f"expected first >= 0, got {first}")


def grouped(q: Tensor, kv_heads: int) -> None:
    """Check that query heads can share the KV heads."""
    _expect(q.dim() == 4, f"expected 4 axes, got shape {tuple(q.shape)}")
    H = q.shape[1]
    _expect(
        kv_heads >= 1 and H % kv_heads == 0,
        f"expected kv_heads that divide {H} query heads, got {kv_heads}",
    )


def implementation(impl: str, *tensors: Tensor) -> str:
    """Choose what runs: "triton" or "torch". The one place that looks at the device.

    Raises:
        ValueError: If there is no implementation of that name.
        RuntimeError: If the named one cannot run here.
    """
    _expect(
        impl in ("auto", "torch", "triton"),
        f'expected impl "auto", "torch" or "triton", got {impl!r}',
    )
    first = tensors[0]
    device, doubles = first.device.type, first.dtype == torch.float64
    if impl == "auto":
        return "triton" if not doubles and has_kernels(first.device) else "torch"
    if impl == "triton":
        if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise RuntimeError(
                f"impl='triton' needs a CUDA tensor or TRITON_INTERPRET=1, got {device}"
            )
        if doubles:
            raise RuntimeError("impl='triton' computes in float32; float64 needs impl='torch'")
        if find_spec("triton") is None:
            raise RuntimeError("impl='triton' needs the package triton, which is not installed")
    return impl
