"""How far a timed operation is from the float64 reference, relative to the largest entry.

Prefill is checked on the tensors that are timed, at queries picked along the whole length; decoding
completely; forward and backward completely too, but on a shorter text.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cca_kernels import reference
from cca_models.benchmarks_operations import Sizes

Gradients = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""Called with q, k, v and do; returns o, dq, dk and dv."""


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Give the largest difference over the largest entry; infinite where not all is finite."""
    if not bool(torch.isfinite(actual).all()):
        return float("inf")
    difference = (actual.double() - exact).abs().max()
    return float(difference / exact.abs().max().clamp(min=1e-30))


def picked_positions(sizes: Sizes) -> list[int]:
    """Pick queries: both ends, where core tokens first appear, and odd places between."""
    L, G, W = sizes.length, sizes.group_size, sizes.window
    edges = [0, 1, W - 1, W, W + G - 2, W + G - 1, W + 8 * G, L - 2, L - 1]
    between = [L * i // 8 + 37 * i for i in range(1, 8)]
    return sorted({p for p in edges + between if 0 <= p < L})


def prefill_error(
    o: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sizes: Sizes,
    *,
    dense: bool = False,
    cores: tuple[Tensor, Tensor] | None = None,
) -> float:
    """Compare picked queries of the first and the last KV head with the reference.

    Args:
        o: The output, [1, H, L, D].
        q: Queries; k and v the keys and values of the same tokens.
        dense: Whether all earlier tokens were seen, and no core token.
        cores: The core keys and values, where they were given and not pooled.
    """
    if not bool(torch.isfinite(o).all()):
        return float("inf")
    M, G, KV = sizes.groups, sizes.group_size, sizes.kv_heads
    shared = sizes.heads // KV
    window = sizes.length if dense else sizes.window
    worst = 0.0
    for head in sorted({0, KV - 1}):
        own = slice(head * shared, (head + 1) * shared)
        key, value = (t[:, head : head + 1].double() for t in (k, v))
        if dense:
            core_k = core_v = key[:, :, :0]
        elif cores is not None:
            core_k, core_v = (t[:, head : head + 1].double() for t in cores)
        else:
            last = q[:, own, G - 1 : M * G : G].double()
            anchor = reference.group_anchors(last, kv_heads=1)
            core_k, core_v = reference.pool_groups(
                key, value, anchor, group_size=G, scale=sizes.scale
            )
        for p in picked_positions(sizes):
            exact, _ = reference.attend(
                q[:, own, p : p + 1].double(), key[:, :, : p + 1], value[:, :, : p + 1],
                core_k, core_v, position=p, group_size=G, window=window, scale=sizes.scale,
            )  # fmt: skip
            worst = max(worst, relative_error(o[:, own, p : p + 1], exact))
    return worst


def gradient_error(
    run: Gradients,
    sizes: Sizes,
    *,
    dense: bool,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> float:
    """Compare output and gradients on a text a little longer than the window, 16 KV heads at most.

    Args:
        run: What is timed, for any length and number of heads.
        dense: Whether all earlier tokens are seen.
    """
    G, W = sizes.group_size, sizes.window
    L = min(sizes.length, (W + 16 * G) // 16 * 16)
    KV = min(sizes.kv_heads, 16)
    H = KV * (sizes.heads // sizes.kv_heads)
    q, k, v, do = draw(((H, L), (KV, L), (KV, L), (H, L)), sizes, device, dtype, seed)
    actual = run(q, k, v, do)
    q, k, v = (t.double().requires_grad_() for t in (q, k, v))
    last = q[:, :, G - 1 : L // G * G : G]
    anchor = reference.group_anchors(last, kv_heads=KV)
    core_k, core_v = reference.pool_groups(k, v, anchor, group_size=G, scale=sizes.scale)
    if dense:
        core_k, core_v, W = core_k[:, :, :0], core_v[:, :, :0], L
    o, _ = reference.attend(
        q, k, v, core_k, core_v, position=0, group_size=G, window=W, scale=sizes.scale
    )
    exact = (o.detach(), *torch.autograd.grad(o, (q, k, v), do.double()))
    return max(relative_error(a, e) for a, e in zip(actual, exact, strict=True))


def draw(
    shapes: tuple[tuple[int, int], ...],
    sizes: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> list[Tensor]:
    """Draw normal tensors [1, heads, length, D], one for each pair of heads and length."""
    random = torch.Generator(device).manual_seed(seed)
    return [
        torch.randn(1, heads, n, sizes.head_dim, generator=random, device=device, dtype=dtype)
        for heads, n in shapes
    ]
