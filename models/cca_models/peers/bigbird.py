"""BigBird made causal: block 0, the block before, the own one, and a few at random.

BigBird is an encoder of blocks of b tokens: every block sees the first and the last one, its
neighbours and r others at random, and those two see everything. Ours keeps what a causal decoder
can: row r of blocks sees blocks 0, r - 1 and r, the last causally, and up to `random_blocks` others
of 1 ... r - 2. They are drawn for each seed, layer, head and row, by a hash of these: nothing
depends on how a text is cut or how long it gets.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_models.peers import kernels, oracle
from cca_models.peers.past import PeerLayer
from cca_models.peers.records import AttentionRecord, Place

# Queries at a time.
_QUERIES = 1024
# The hash works on 32 bits: products with this factor stay within int64.
_FACTOR, _BITS = 0x45D9F3B, 0xFFFFFFFF


def _mixed(x: Tensor) -> Tensor:
    """Hash numbers of 32 bits to such."""
    for _ in range(2):
        x = (((x >> 16) ^ x) * _FACTOR) & _BITS
    return (x >> 16) ^ x


@lru_cache(maxsize=128)
def random_blocks(
    seed: int,
    layer: int,
    heads: int,
    *,
    row: int,
    rows: int,
    count: int,
    device: torch.device | None = None,
) -> Tensor:
    """Draw blocks of 1 ... r - 2 for rows r of blocks, without repetition (Floyd's algorithm).

    Args:
        seed: Of the draw.
        layer: Number of the layer.
        heads: Query heads, H.
        row: The first row.
        rows: How many.
        count: Blocks to draw.
        device: Where; the CPU by default.

    Returns:
        Numbers of blocks, [H, rows, count]; 0 where fewer can be drawn. Shared: not
        to be written to.
    """
    r = torch.arange(row, row + rows, device=device)
    state = _mixed(torch.full((), seed & _BITS, device=device))
    state = _mixed(state ^ (layer + 1))
    state = _mixed(state ^ torch.arange(1, heads + 1, device=device)[:, None])
    state = _mixed(state ^ (r + 1))  # [H, rows]
    others = (r - 2).clamp(min=0)
    drawn: list[Tensor] = []
    for n in range(count):
        # Floyd: the n-th draw is from 1 ... top; top itself replaces what was drawn before.
        top = others - others.clamp(max=count) + n + 1
        one = 1 + ((_mixed(state ^ (n + 1)) * top) >> 32)
        for earlier in drawn:
            one = torch.where(one == earlier, top, one)
        drawn.append(torch.where(n < others, one, 0))
    return torch.stack(drawn, -1) if drawn else r.new_zeros(heads, rows, 0)


class BigBirdLayer(PeerLayer):
    """Keeps everything; a row of blocks reads a few of the blocks before it.

    Args:
        place: Gives layer, heads and seed.
        block: Tokens in a block, b.
        random_blocks: Blocks that a row sees beside the first, the one before and its own.

    Raises:
        ValueError: If block is not positive or random_blocks is negative.
    """

    def __init__(self, place: Place, *, block: int, random_blocks: int) -> None:
        super().__init__()
        if block < 1 or random_blocks < 0:
            raise ValueError(
                f"expected block >= 1 and random_blocks >= 0, got {block} and {random_blocks}"
            )
        self._place, self._block, self._count = place, block, random_blocks

    def look(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend to the blocks of each row; as PeerLayer.look."""
        L, b = q.shape[2], self._block
        if L == 1:
            return self._one(q, position, scale)
        tile = kernels.tile_for(q, rows=b, keys=b) if kernels.use_kernels(q) else None
        if tile is not None:
            return kernels.by_lists(
                q, self.past.k, self.past.v, *self._own_first(position, L, q.device),
                position=position, block=b, tile=tile, scale=scale,
            )  # fmt: skip
        first, last = position // b, (position + L - 1) // b
        before = position - first * b
        after = (last + 1) * b - position - L
        rows = F.pad(q, (0, 0, before, after)).unflatten(2, (-1, b))  # [B, H, R, b, D]
        step = max(1, _QUERIES // b)
        parts = [
            self._rows(rows[:, :, a : a + step], first + a, scale)
            for a in range(0, rows.shape[2], step)
        ]
        return torch.cat(parts, 2).flatten(2, 3)[:, :, before : before + L]

    def _drawn(self, row: int, rows: int, device: torch.device) -> Tensor:
        """Give the random blocks of rows, [H, R, random blocks]."""
        return random_blocks(
            self._place.seed, self._place.layer, self._place.heads,
            row=row, rows=rows, count=self._count, device=device,
        )  # fmt: skip

    def _own_first(self, position: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """List the blocks of queries' rows: the own one, 0, the one before, random ones.

        Returns:
            Their numbers, [1, H, R, C], and how many of them there are, [R].
        """
        row, last = position // self._block, (position + length - 1) // self._block
        drawn = self._drawn(row, last + 1 - row, device)
        r = torch.arange(row, last + 1, device=device)
        three = torch.stack([r, torch.zeros_like(r), r - 1], -1).expand(len(drawn), -1, -1)
        count = r.clamp(max=2) + 1 + (r - 2).clamp(0, self._count)
        return torch.cat([three, drawn], -1)[None], count

    def _listed(self, row: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """List the blocks of rows: 0, random ones, the one before, the own one.

        Returns:
            Their numbers, [H, R, C], and which of them count, [R, C]: early rows have fewer.
        """
        H = self._place.heads
        drawn = self._drawn(row, rows, torch.device("cpu"))
        r = torch.arange(row, row + rows)
        ends = torch.stack([r - 1, r], -1).expand(H, -1, -1)
        blocks = torch.cat([torch.zeros(H, rows, 1, dtype=r.dtype), drawn, ends], -1)
        counts = torch.cat(
            [
                (r >= 1)[:, None],
                torch.arange(self._count) < (r - 2)[:, None],
                (r >= 2)[:, None],
                (r >= 0)[:, None],
            ],
            -1,
        )
        return blocks.to(device), counts.to(device)

    def _places(self, blocks: Tensor) -> Tensor:
        """Give the places of the tokens of blocks, [..., C] -> [..., C * b], none past the end."""
        inside = torch.arange(self._block, device=blocks.device)
        places = (blocks[..., None] * self._block + inside).flatten(-2)
        return places.clamp(0, len(self.past) - 1)

    def _kv_heads(self, device: torch.device) -> Tensor:
        """Give the KV head of every query head, [H]."""
        H, KV = self._place.heads, self._place.kv_heads
        return torch.arange(H, device=device) // (H // KV)

    def _rows(self, q: Tensor, row: int, scale: float) -> Tensor:
        """Attend from whole rows of blocks, [B, H, R, b, D]."""
        H, R, b = q.shape[1:4]
        blocks, counts = self._listed(row, R, q.device)
        places = self._places(blocks)  # [H, R, C * b]
        head = self._kv_heads(q.device)[:, None, None]
        k, v = self.past.k[:, head, places], self.past.v[:, head, places]
        mask = counts[:, None, :, None].expand(-1, b, -1, b).clone()  # [R, b, C, b]
        mask[:, :, -1] = oracle.causal(b, device=q.device)
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.flatten(2), scale=scale)
        rows: Tensor = o.unflatten(0, (-1, H))
        return rows

    def _one(self, q: Tensor, position: int, scale: float) -> Tensor:
        """Attend from one query; only what it sees is gathered."""
        row = position // self._block
        drawn = self._drawn(row, 1, q.device)[:, 0, : max(0, row - 2)]
        # Early rows have fewer. The ends are numbers of Python's: no step waits for the device.
        ends = [drawn.new_full((len(drawn), 1), r) for r in (0, row - 1, row)[max(0, 2 - row) :]]
        if row >= 2:
            ends.insert(1, drawn)
        seen = torch.cat(ends, -1)  # [H, C]
        # The own block comes last, and ends with the query.
        end = seen.shape[1] * self._block - (row + 1) * self._block + position + 1
        places = self._places(seen)[:, :end]
        head = self._kv_heads(q.device)[:, None]
        k, v = self.past.k[:, head, places], self.past.v[:, head, places]
        return F.scaled_dot_product_attention(q, k, v, scale=scale)


def _plain_mix(x: int) -> int:
    """The hash, on whole numbers."""
    for _ in range(2):
        x = ((x >> 16 ^ x) * _FACTOR) % 2**32
    return x >> 16 ^ x


def _plain_draw(place: Place, head: int, row: int, count: int) -> set[int]:
    """Draw the blocks of one row; as `random_blocks`, written for one."""
    state = _plain_mix(place.seed % 2**32)
    for part in (place.layer, head, row):
        state = _plain_mix(state ^ (part + 1))
    others = max(0, row - 2)
    chosen: set[int] = set()
    for top in range(max(0, others - count) + 1, others + 1):
        one = 1 + _plain_mix(state ^ (len(chosen) + 1)) * top // 2**32
        chosen.add(top if one in chosen else one)
    return chosen


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, block: int, random_blocks: int
) -> Tensor:
    H, L = q.shape[1:3]
    mask = torch.zeros(H, L, L, dtype=torch.bool)
    for head in range(H):
        for row in range(-(-L // block)):
            queries = slice(row * block, (row + 1) * block)
            drawn = _plain_draw(place, head, row, random_blocks)
            for other in {0, max(0, row - 1), row} | drawn:
                mask[head, queries, other * block : (other + 1) * block] = True
    return oracle.by_mask(q, k, v, mask, scale=scale)


def _make(place: Place, **settings: Any) -> BigBirdLayer:
    return BigBirdLayer(place, **settings)


RECORD = AttentionRecord(
    name="bigbird",
    title="BigBird (causal)",
    make=_make,
    oracle=_oracle,
    settings={"block": 64, "random_blocks": 3},
    paper="Zaheer et al., NeurIPS 2020 (arXiv 2007.14062)",
    code="google-research/bigbird",
    needs_tuning=True,
    prefill="sparse",
    decode="sparse",
    kv_kept="all",
    reaches_all=False,
    shortest=384,
    adapted="causal: no block to the right, no global last block; random blocks are drawn from "
    "those before, by a hash; the last block of a text may be short",
)
