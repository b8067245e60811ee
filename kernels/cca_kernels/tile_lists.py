"""Lists of the tiles of keys that each tile of queries sees, and how such lists are made.

Shapes: lists [B or 1, H or 1, T, most] for T tiles of queries. The kernel that reads them:
cca_kernels/listed_attention.py.
"""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from cca_kernels.devices import architecture
from cca_kernels.tiles import Table, Tile, tile_for


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLists:
    """Which tiles of keys each tile of queries sees.

    Tiles of queries begin at multiples of `queries` by position; the first one holds the first
    query. Tiles of keys have `tile.block_k` keys, the first begins with the first key.

    Attributes:
        tiles: Numbers of tiles of keys, [B or 1, H / heads or 1, T, most] int32, contiguous in its
            last axis; those come first in which some query does not see some key.
        counts: How many those are, and how many there are in all, [B or 1, H / heads or 1, T, 2]
            int32, contiguous in its last axis.
        tile: The tile sizes; block_q has room for queries * heads rows.
        queries: Queries of a tile.
        heads: Query heads that share a list and a program: 1, or all of a KV head.
    """

    tiles: Tensor
    counts: Tensor
    tile: Tile
    queries: int
    heads: int = 1


@triton.jit
def list_tiles_kernel(needed, full, tiles, counts, N, BLOCK_N: tl.constexpr):
    i_t = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BLOCK_N)
    m_n = o_n < N
    b_needed = tl.load(needed + i_t * N + o_n, mask=m_n, other=0).to(tl.int32)
    b_full = tl.load(full + i_t * N + o_n, mask=m_n, other=0).to(tl.int32) * b_needed
    b_edge = b_needed - b_full
    edges = tl.sum(b_edge, axis=0)
    o_edge, o_full = tl.cumsum(b_edge, axis=0) - 1, edges + tl.cumsum(b_full, axis=0) - 1
    slot = tl.where(b_edge > 0, o_edge, o_full)
    tl.store(tiles + i_t * N + slot, o_n, mask=b_needed > 0)
    tl.store(counts + i_t * 2, edges)
    tl.store(counts + i_t * 2 + 1, tl.sum(b_needed, axis=0))


def list_tiles(needed: Tensor, full: Tensor, *, tile: Tile) -> TileLists:
    """List the tiles that are needed, without asking the device how many they are.

    Args:
        needed: Whether a query of the tile sees a key of it, [B, H, T, N] booleans.
        full: Whether every query sees every key of it, like needed.
        tile: The tile sizes; tiles of queries have block_q of them.
    """
    needed, full = torch.broadcast_tensors(needed, full)
    *outer, T, N = needed.shape
    tiles = torch.empty(*outer, T, N, dtype=torch.int32, device=needed.device)
    counts = torch.empty(*outer, T, 2, dtype=torch.int32, device=needed.device)
    list_tiles_kernel[(needed.numel() // N,)](
        needed.contiguous().view(torch.uint8),
        full.contiguous().view(torch.uint8),
        tiles,
        counts,
        N=N,
        BLOCK_N=max(16, triton.next_power_of_2(N)),
        num_warps=4,
    )
    return TileLists(tiles=tiles, counts=counts, tile=tile, queries=tile.block_q)


# More warps than prefill_forward's: what is seen takes registers, too.
_TILES: Table = {
    "hopper": [
        (64, 2, Tile(block_q=128, block_k=64, num_warps=8, num_stages=3)),
        (128, 2, Tile(block_q=128, block_k=64, num_warps=8, num_stages=2)),
        (256, 2, Tile(block_q=64, block_k=32, num_warps=4, num_stages=2)),
        (64, 4, Tile(block_q=64, block_k=32, num_warps=8, num_stages=2)),
        (256, 4, Tile(block_q=32, block_k=32, num_warps=8, num_stages=1)),
    ],
    "ampere": [
        (64, 2, Tile(block_q=128, block_k=64, num_warps=8, num_stages=3)),
        (128, 2, Tile(block_q=128, block_k=64, num_warps=8, num_stages=2)),
        (256, 2, Tile(block_q=64, block_k=32, num_warps=4, num_stages=2)),
        (64, 4, Tile(block_q=64, block_k=32, num_warps=8, num_stages=2)),
        (256, 4, Tile(block_q=32, block_k=32, num_warps=8, num_stages=1)),
    ],
    "ada": [
        (64, 2, Tile(block_q=128, block_k=64, num_warps=8, num_stages=2)),
        (128, 2, Tile(block_q=128, block_k=32, num_warps=8, num_stages=2)),
        (256, 2, Tile(block_q=64, block_k=32, num_warps=4, num_stages=1)),
        (64, 4, Tile(block_q=32, block_k=32, num_warps=4, num_stages=2)),
        (256, 4, Tile(block_q=16, block_k=32, num_warps=4, num_stages=1)),
    ],
    # Small, so that odd sizes cross several tiles.
    "interpreter": [(1 << 30, 8, Tile(block_q=32, block_k=32, num_warps=4, num_stages=1))],
}
# Fewer rows or keys a tensor core cannot multiply.
LEAST = 16


def listed_tile(q: Tensor, *, rows: int = 0, keys: int = 0) -> Tile | None:
    """Choose tile sizes for queries [B, H, L, D].

    Args:
        q: Gives head dim, dtype and device.
        rows: What the queries of a tile must divide, if anything.
        keys: What the keys of a tile must divide, if anything.

    Returns:
        The tile sizes; None if no tile divides so few.

    Raises:
        ValueError: If no tile has room for the head dim.
    """
    block_d = max(16, triton.next_power_of_2(q.shape[-1]))
    tile = tile_for(_TILES, architecture(q.device), block_d, q.element_size())
    block_q, block_k = (
        min(size, whole & -whole) if whole else size
        for size, whole in ((tile.block_q, rows), (tile.block_k, keys))
    )
    if min(block_q, block_k) < LEAST:
        return None
    warps = max(4, tile.num_warps * block_q // tile.block_q)
    return replace(tile, block_q=block_q, block_k=block_k, num_warps=warps)
