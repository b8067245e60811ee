"""Peers by the kernels of cca_kernels, where there is a GPU that runs them.

Each function does what the torch of some peer does. Nothing here waits for the device.
Shapes: q [B, H, L, D]; k, v [B, KV, S, D]; query l stands at position + l. None of them knows
float64, or gradients: `use_kernels` says where they may be called.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_kernels import decode
from cca_kernels.devices import has_kernels, on_device

if TYPE_CHECKING:
    from cca_kernels.listed_attention import Columns
    from cca_kernels.tiles import Tile

# The largest head dim that has tiles, and the most queries that read a long past side by side.
_LARGEST, FEW = 256, 16
# Longer than any text: CCA's decoding with such a window has no core tokens.
_ENDLESS = 1 << 30


def use_kernels(q: Tensor) -> bool:
    """Say whether kernels attend from these queries; else torch does."""
    if q.dtype == torch.float64 or q.shape[-1] > _LARGEST:
        return False
    return has_kernels(q.device) and not (torch.is_grad_enabled() and q.requires_grad)


def few(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Attend from the last FEW queries, or fewer, to everything; split over the keys."""
    none = k[:, :, :0]
    o, _ = decode(
        q, k, v, none, none, position=k.shape[2] - q.shape[2], group_size=1, window=_ENDLESS,
        scale=scale,
    )  # fmt: skip
    return o


def in_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    position: int,
    start: int,
    window: int,
    scale: float,
    columns: "Columns | None" = None,
) -> Tensor:
    """Attend to the last `window` tokens, and to columns farther away; the first key at `start`."""
    return _attend(
        q, k, v, position=position, key_start=start, window=window, columns=columns, scale=scale
    )


def first_columns(count: int, device: torch.device) -> Tensor:
    """Give the places of the first tokens, as Columns want them."""
    return torch.arange(count, dtype=torch.int32, device=device)[None, None]


def tile_for(q: Tensor, *, rows: int = 0, keys: int = 0) -> "Tile | None":
    """Choose tiles that divide blocks of queries and of keys; None if there are no such tiles."""
    from cca_kernels.tile_lists import listed_tile

    return listed_tile(q, rows=rows, keys=keys)


def by_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chosen: Tensor,
    *,
    position: int,
    block: int,
    tile: "Tile",
    scale: float,
) -> Tensor:
    """Attend causally from blocks of queries to the blocks of keys that they have chosen.

    Args:
        q: Queries.
        k: Keys from the first token on.
        v: Values, like k.
        chosen: Booleans, [B, H, blocks of queries, blocks of keys]; the first row is for the block
            that the first query lies in.
        position: Of the first query.
        block: Tokens of a block.
        tile: From `tile_for` with such rows and keys.
        scale: Factor on the scores.
    """
    from cca_kernels.tile_lists import list_tiles

    rows, keys = _row_tiles(q, position, tile), _key_tiles(k, tile)
    of_rows, of_keys = rows * tile.block_q // block, keys * tile.block_k // block
    needed = chosen[:, :, (of_rows - position // block)[:, None], of_keys]
    with on_device(q.device):
        lists = list_tiles(*_causal(needed, needed, rows, keys, tile), tile=tile)
    return _attend(q, k, v, position=position, lists=lists, scale=scale)


def by_lists(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lists: Tensor,
    count: Tensor,
    *,
    position: int,
    block: int,
    tile: "Tile",
    scale: float,
) -> Tensor:
    """Attend causally from blocks of queries to listed blocks of keys, none of them ahead.

    Args:
        q: Queries.
        k: Keys from the first token on.
        v: Values, like k.
        lists: Numbers of blocks, the own one first, [B or 1, H, blocks of queries, C].
        count: How many of them there are, [blocks of queries].
        position: Of the first query.
        block: Tokens of a block.
        tile: From `tile_for` with such rows and keys.
        scale: Factor on the scores.
    """
    from cca_kernels.tile_lists import TileLists

    many = block // tile.block_k
    rows = _row_tiles(q, position, tile) * tile.block_q // block - position // block
    tiles = _tiles_of(lists, many)[:, :, rows].int()
    # All tiles of the own block count as masked; those that lie ahead show nothing.
    counts = torch.stack([torch.full_like(count, many), count * many], -1)[rows].int()[None, None]
    listed = TileLists(tiles=tiles, counts=counts, tile=tile, queries=tile.block_q)
    return _attend(q, k, v, position=position, lists=listed, scale=scale)


def by_query(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lists: Tensor,
    *,
    position: int,
    block: int,
    tile: "Tile",
    scale: float,
) -> Tensor:
    """Attend causally from every query to blocks that the heads of a KV head read together.

    Args:
        q: Queries.
        k: Keys from the first token on.
        v: Values, like k.
        lists: Numbers of blocks, [B, KV, L, C]: the own one first; where fewer than C have begun,
            those that have not come last.
        position: Of the first query.
        block: Tokens of a block.
        tile: From `tile_for` with such keys; a program takes one query's heads.
        scale: Factor on the scores.
    """
    from cca_kernels.tile_lists import LEAST, TileLists

    heads = q.shape[1] // k.shape[1]
    rows = max(LEAST, 1 << (heads - 1).bit_length())
    many = block // tile.block_k
    begun = torch.arange(position, position + q.shape[2], device=q.device) // block + 1
    counts = torch.stack(
        [torch.full_like(begun, many), begun.clamp(max=lists.shape[-1]) * many], -1
    )
    listed = TileLists(
        tiles=_tiles_of(lists, many).int(), counts=counts.int()[None, None], queries=1, heads=heads,
        tile=replace(tile, block_q=rows, num_warps=max(2, min(8, rows // 16))),
    )  # fmt: skip
    return _attend(q, k, v, position=position, lists=listed, scale=scale)


def by_choice(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chosen: Tensor,
    *,
    position: int,
    block: int,
    tile: "Tile",
    scale: float,
) -> Tensor:
    """Attend causally to the blocks that every query has chosen for itself, [B, H, L, blocks].

    As cca_models.peers.blocks.by_block; tile from `tile_for` with keys=block.
    """
    from cca_kernels.tile_lists import list_tiles

    L, lead = q.shape[2], position % tile.block_q
    rows, keys = _row_tiles(q, position, tile), _key_tiles(k, tile)

    def of_some(x: Tensor) -> Tensor:
        """Say whether some query of a tile has it, [B, H, T, tiles of keys]."""
        x = F.pad(x, (0, 0, lead, -(lead + L) % tile.block_q))
        some: Tensor = x.unflatten(2, (-1, tile.block_q)).any(3)
        return some[..., keys * tile.block_k // block]

    with on_device(q.device):
        needed, full = _causal(of_some(chosen), ~of_some(~chosen), rows, keys, tile)
        lists = list_tiles(needed, full, tile=tile)
    return _attend(
        q, k, v, position=position, lists=lists, choice=chosen, choice_block=block, scale=scale
    )


def _attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Give the output of listed_attention alone, on the device of the queries."""
    from cca_kernels.listed_attention import listed_attention

    with on_device(q.device):
        return listed_attention(q, k, v, **options)[0]


def _row_tiles(q: Tensor, position: int, tile: "Tile") -> Tensor:
    """Number the tiles, counted by position, that the queries lie in."""
    last = (position + q.shape[2] - 1) // tile.block_q
    return torch.arange(position // tile.block_q, last + 1, device=q.device)


def _key_tiles(k: Tensor, tile: "Tile") -> Tensor:
    """Number the tiles of keys; the last may not be full."""
    return torch.arange(-(-k.shape[2] // tile.block_k), device=k.device)


def _tiles_of(lists: Tensor, many: int) -> Tensor:
    """Give the tiles of listed blocks that have so many each, [..., C] to [..., C * many]."""
    return (lists[..., None] * many + torch.arange(many, device=lists.device)).flatten(-2)


def _causal(
    needed: Tensor, full: Tensor, rows: Tensor, keys: Tensor, tile: "Tile"
) -> tuple[Tensor, Tensor]:
    """Leave out tiles [.., T, N] that lie ahead, and call those on the diagonal not full.

    A first tile that begins before the first query counts from its beginning: full tiles of keys
    lie before it all the same.
    """
    begin = rows[:, None] * tile.block_q
    needed = needed & (keys * tile.block_k < begin + tile.block_q)
    return needed, full & (keys * tile.block_k + tile.block_k <= begin + 1)
