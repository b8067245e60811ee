"""XAttention: over the prompt, blocks of queries see the blocks of keys with enough of the mass.

Scores are summed along the antidiagonals of tiles of stride x stride: one product of the tile's
queries, last one first, with its keys. A softmax over the tiles up to a query's own gives every
tile its part of the mass; a block of queries then sees its own block, the first one, and the
heaviest others until they hold a threshold's part of what the block's queries give in all. A tile
is scored whole, so that a choice may hang on tokens up to the end of the query's own tile.
Memory at the prompt is O(L * rows), and O((L / block)^2) for the choice. Decoding is full
attention, as in the release.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_models.peers import blocks as of_blocks
from cca_models.peers import kernels, oracle, sdpa
from cca_models.peers.prompt_sparse import PromptSparseLayer, gathered, places, some_heads
from cca_models.peers.records import AttentionRecord, Place
from cca_models.peers.sdpa import wide

# Blocks of queries that are scored at a time, at least on a GPU.
_SCORED = 16


class XAttentionLayer(PromptSparseLayer):
    """Blocks of keys, chosen per query head and block of queries.

    Args:
        block: Tokens of a block; a multiple of the stride.
        stride: Side of a tile.
        threshold: Part of the mass that the chosen blocks must hold.

    Raises:
        ValueError: If the stride does not divide the block.
    """

    def __init__(self, *, block: int, stride: int, threshold: float) -> None:
        super().__init__()
        if block % stride:
            raise ValueError(f"expected a block that {stride} divides, got {block}")
        self._block, self._stride, self._threshold = block, stride, threshold
        self._choice: Tensor | None = None

    def choose(self, q: Tensor, *, scale: float) -> None:
        """Choose blocks, as booleans [B, H, blocks of queries, blocks of keys]."""
        self._choice = None
        # Two blocks are the first one and one's own.
        if q.shape[2] > 2 * self._block:
            mass = self._mass(q, self.past.k, scale=scale)
            self._choice = _heaviest(mass, self._threshold)

    def forget(self, q: Tensor, position: int, *, scale: float) -> None:
        """Let go of the choice."""
        super().forget(q, position, scale=scale)
        self._choice = None

    def _mass(self, q: Tensor, k: Tensor, *, scale: float) -> Tensor:
        """Estimate the mass of every pair of blocks, [B, H, blocks, blocks]."""
        B, H, N = q.shape[:3]
        per = self._block // self._stride
        pad, blocks = -N % self._stride, -(-N // self._block)
        # On a GPU half precision is multiplied as it is: see `product`.
        if not q.is_cuda:
            q, k = wide(q), wide(k)
        # A tile's tokens side by side, [B, KV, tiles, stride * D].
        keys = F.pad(k, (0, 0, 0, pad)).unflatten(2, (-1, self._stride)).flatten(3)
        mass = torch.zeros(B, H, blocks, blocks, dtype=wide(q[:0]).dtype, device=q.device)
        step = _SCORED
        if q.is_cuda:
            step = max(step, of_blocks.SCORES // (B * H * per * keys.shape[2]))
        for a in range(0, blocks, step):
            e = min(a + step, blocks)
            rows = q[:, :, a * self._block : e * self._block]
            rows = F.pad(rows, (0, 0, 0, -rows.shape[2] % self._stride))
            rows = rows.unflatten(2, (-1, self._stride)).flip(3).flatten(3)
            tiles, end = rows.shape[2], a * per + rows.shape[2]
            score = sdpa.product(rows, keys[:, :, :end]).mul_(scale / self._stride)
            future = torch.ones(tiles, end, dtype=torch.bool, device=q.device).triu(a * per + 1)
            weight = score.masked_fill_(future, -torch.inf).softmax(-1)
            weight = F.pad(weight, (0, e * per - end, 0, (e - a) * per - tiles))
            by_block = weight.unflatten(3, (e, per)).sum(-1).unflatten(2, (e - a, per)).sum(-2)
            mass[:, :, a:e, :e] = by_block
        return mass

    def look_in_prompt(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend by blocks of queries, to the blocks chosen."""
        k, v, b = self.past.k, self.past.v, self._block
        if self._choice is None:
            return sdpa.dense(q, k, v, scale=scale)
        tile = kernels.tile_for(q, rows=b, keys=b) if kernels.use_kernels(q) else None
        if tile is not None:
            chosen = self._choice[:, :, position // b :]
            return kernels.by_blocks(
                q, k, v, chosen, position=position, block=b, tile=tile, scale=scale
            )
        end = position + q.shape[2]
        # The heads' most in every row of blocks: a single wait for the device.
        counts = self._choice.sum(-1).amax(0).tolist()
        most = max(row for head in counts for row in head[position // b :])
        out = torch.empty_like(q)
        for kv, heads in some_heads(q, k.shape[1], rows=b, keys=most * b):
            for block in range(position // b, -(-end // b)):
                a, e = max(position, block * b), min(end, (block + 1) * b)
                out[:, heads, a - position : e - position] = _blocks(
                    q[:, heads, a - position : e - position], k[:, kv, :e], v[:, kv, :e],
                    self._choice[:, heads, block, : block + 1], b,
                    most=max(head[block] for head in counts[heads]), scale=scale,
                )  # fmt: skip
        return out


def _heaviest(mass: Tensor, threshold: float) -> Tensor:
    """Choose the first block, one's own, and the heaviest others up to a part of the mass."""
    mass = mass.double()
    past = torch.ones(mass.shape[-2:], dtype=torch.bool, device=mass.device).tril()
    forced = torch.eye(len(past), dtype=torch.bool, device=mass.device)
    forced[:, 0] = True
    held = mass.masked_fill(~forced, 0).sum(-1, keepdim=True)
    others, order = mass.masked_fill(forced, 0).sort(-1, descending=True)
    # What is held before each of them is taken in.
    before = held + F.pad(others.cumsum(-1)[..., :-1], (1, 0))
    taken = before < threshold * mass.sum(-1, keepdim=True)
    chosen = torch.zeros_like(taken).scatter(-1, order, taken)
    return (chosen | forced) & past


def _blocks(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int, *, most: int, scale: float
) -> Tensor:
    """Attend from the last queries to the chosen blocks, [B, H, blocks], of k [B, KV, S, D]."""
    S, device = k.shape[2], q.device
    i = torch.arange(S - q.shape[2], S, device=device)[:, None]
    if most == chosen.shape[-1]:
        # Some head sees everything: there is nothing to save by gathering.
        seen = chosen.repeat_interleave(block, -1)[:, :, None, :S]
        return sdpa.masked(q, k, v, seen & (torch.arange(S, device=device) <= i), scale=scale)
    order = places(chosen, most)
    at = (order[..., None] * block + torch.arange(block, device=device)).flatten(-2)
    seen = chosen.gather(-1, order).repeat_interleave(block, -1)
    return gathered(q, k, v, at, seen[:, :, None] & (at[:, :, None] <= i), scale=scale)


def _oracle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    place: Place,
    block: int,
    stride: int,
    threshold: float,
) -> Tensor:
    N = q.shape[2]
    tiles, blocks = -(-N // stride), -(-N // block)
    score = oracle.scores(q, k, scale=scale)
    score = F.pad(score, (0, tiles * stride - N, 0, tiles * stride - N))
    summed = score.new_zeros(*score.shape[:2], tiles, tiles)
    for t in range(stride):
        summed += score[:, :, stride - 1 - t :: stride, t::stride]
    summed = summed.masked_fill(~oracle.causal(tiles), -torch.inf)
    weight = (summed / stride).softmax(-1)
    mask = torch.zeros(*q.shape[:2], N, N, dtype=torch.bool)
    of_block = torch.arange(tiles) * stride // block
    for batch, head, r in torch.cartesian_prod(*map(torch.arange, (*q.shape[:2], blocks))).tolist():
        rows = weight[batch, head, of_block == r]
        mass = [float(rows[:, of_block == c].sum()) for c in range(r + 1)]
        chosen = {0, r}
        for c in sorted(set(range(r + 1)) - chosen, key=lambda c: -mass[c]):
            if sum(mass[one] for one in chosen) >= threshold * sum(mass):
                break
            chosen.add(c)
        for c in chosen:
            at = slice(c * block, (c + 1) * block)
            mask[batch, head, r * block : (r + 1) * block, at] = True
    return oracle.by_mask(q, k, v, mask, scale=scale)


def _make(place: Place, **settings: Any) -> XAttentionLayer:
    return XAttentionLayer(**settings)


RECORD = AttentionRecord(
    name="xattention",
    title="XAttention",
    make=_make,
    oracle=_oracle,
    settings={"block": 128, "stride": 16, "threshold": 0.9},
    paper="Xu et al., ICML 2025 (arXiv 2503.16428)",
    code="mit-han-lab/x-attention",
    needs_tuning=False,
    prefill="sparse",
    decode="dense",
    kv_kept="all",
    reaches_all=True,
    shortest=256,
    adapted="no more blocks than the threshold asks for; the release takes one or two more in the "
    "first chunk that it scores (all of a prompt up to 16K tokens). Tiles are scored in float32",
    whole_prompt=True,
    incremental=False,
    note="one threshold for all heads; the release also has one searched per head for one model; "
    "turns after the prompt are read in full",
)
