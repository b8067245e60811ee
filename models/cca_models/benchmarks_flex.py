"""FlexAttention with the mask of CCA, as a contender: compiled, pooling compiled too.

Keys are laid out [core tokens; raw tokens], with the raw ones in their place before the clock
starts, as a memory laid out for it would hold them; the core tokens are written on every call.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from cca_models.benchmarks_operations import Sizes
from cca_models.benchmarks_timing import Call

_BLOCK = 128


def visible_blocks(
    sizes: Sizes, *, block: int = _BLOCK, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Say which tiles of queries and keys hold visible pairs, and which hold no others.

    Keys are the core tokens, then the raw ones; a tile of keys must not hold both.

    Returns:
        Two bool tensors [query tiles, key tiles]: some pairs are visible, all are.

    Raises:
        ValueError: If length or core tokens are not whole tiles.
    """
    L, M, G, W = sizes.length, sizes.groups, sizes.group_size, sizes.window
    if L % block or M % block:
        raise ValueError(f"expected {L} tokens and {M} core tokens in tiles of {block}")
    first = torch.arange(0, L, block, device=device)[:, None]  # first query of each tile
    last = first + block - 1
    fewest, most = ((p + 1 - W).clamp(min=0) // G for p in (first, last))
    core = torch.arange(0, M, block, device=device)[None]
    raw = torch.arange(0, L, block, device=device)[None]
    some = torch.cat([core < most, (raw <= last) & (raw + block > fewest * G)], dim=1)
    full = torch.cat(
        [core + block <= fewest, (raw >= most * G) & (raw + block - 1 <= first)], dim=1
    )
    return some, full


def block_mask(sizes: Sizes, *, device: torch.device) -> BlockMask:
    """Build the mask from its tiles: nothing of L x S elements is made."""
    M, G, W = sizes.groups, sizes.group_size, sizes.window

    def sees(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        m = (q + 1 - W) // G  # below zero it hides nothing more and shows no core token
        raw = kv - M
        return torch.where(kv < M, kv < m, (raw >= m * G) & (raw <= q))

    some, full = visible_blocks(sizes, device=device)
    partial = _ordered(some & ~full)
    return BlockMask.from_kv_blocks(*partial, *_ordered(full), BLOCK_SIZE=_BLOCK, mask_mod=sees)


def _ordered(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Count the chosen tiles of each row, and list them first: [1, 1, rows], [1, 1, rows, all]."""
    count = tiles.sum(1, dtype=torch.int32)
    order = torch.argsort(tiles.to(torch.int32), dim=1, descending=True, stable=True)
    return count[None, None].contiguous(), order.to(torch.int32)[None, None].contiguous()


def flex_call(q: Tensor, k: Tensor, v: Tensor, sizes: Sizes) -> Call:
    """Make the call; it compiles when it is first made."""
    M, G, scale = sizes.groups, sizes.group_size, sizes.scale
    B, KV, L, D = k.shape
    keys, values = k.new_empty(B, KV, M + L, D), v.new_empty(B, KV, M + L, D)
    keys[:, :, M:], values[:, :, M:] = k, v
    mask = block_mask(sizes, device=q.device)

    def pool(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        anchor = q[:, :, G - 1 : M * G : G].unflatten(1, (KV, -1)).float().mean(2)
        k = k[:, :, : M * G].unflatten(2, (M, G)).float()
        v = v[:, :, : M * G].unflatten(2, (M, G)).float()
        # A product and a sum, not a matmul: so it is fused, and k and v are read once.
        weight = torch.softmax((k * anchor[..., None, :]).sum(-1) * scale, dim=-1)[..., None]
        return (weight * k).sum(3).to(q.dtype), (weight * v).sum(3).to(q.dtype)

    compiled_pool: Any = torch.compile(pool, dynamic=False)
    compiled_flex: Any = torch.compile(flex_attention, dynamic=False)

    def run() -> Any:
        core_k, core_v = compiled_pool(q, k, v)
        keys[:, :, :M], values[:, :, :M] = core_k, core_v
        gqa = q.shape[1] != KV
        return compiled_flex(q, keys, values, block_mask=mask, scale=scale, enable_gqa=gqa)

    return run
