"""NSA: pooled blocks, the best blocks in full, and a window, each with a softmax of its own.

    o = g1 * (attention to the means of full blocks)
      + g2 * (attention to the tokens of the n best blocks)
      + g3 * (attention to the last W tokens)

How good a block is: the weight that the first branch gives it, summed over the query heads that
share a KV head, so that they read the same blocks. Trained models compute the gates g from the
hidden state; a stock checkpoint has none, and here they are constants.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_kernels.devices import on_device
from cca_models.peers import blocks, kernels, oracle, sdpa
from cca_models.peers.past import PeerLayer
from cca_models.peers.records import AttentionRecord, Place

if TYPE_CHECKING:
    from cca_kernels.tiles import Tile

# Queries at a time for the pooled blocks and the window.
_ROWS = 1024
# Queries per block from which on it pays to read block by block: fewer on a CPU, where many small
# products cost more than many calls.
_CROWD = {"cpu": 4}
_CROWD_ELSEWHERE = 256
# Elements of keys that may be gathered at a time: 256 MiB in bfloat16.
_GATHERED = 1 << 27


class NSALayer(PeerLayer):
    """All keys and values, and the means of their full blocks.

    Args:
        block: Tokens per block.
        count: Blocks read in full, those that are always read among them.
        window: Last tokens read, W; the query's own is one of them.
        initial: First blocks of the text that are always read.
        local: Last blocks that are always read; the query's own is one of them.
        gates: Factors on the three branches: pooled, chosen, window.

    Raises:
        ValueError: If the blocks that are always read leave out the own one or are too many.
    """

    def __init__(
        self,
        *,
        block: int,
        count: int,
        window: int,
        initial: int,
        local: int,
        gates: Sequence[float],
    ) -> None:
        super().__init__()
        if local < 1 or initial + local > count:
            raise ValueError(
                f"expected local >= 1 and count >= initial + local, "
                f"got {local=} {count=} {initial=}"
            )
        if len(gates) != 3:
            raise ValueError(f"expected 3 gates, got {len(gates)}")
        self._block, self._count, self._window = block, count, window
        self._initial, self._local, self._gates = initial, local, tuple(gates)
        # Replaced when they grow, never written to: a fork may share them.
        self._mean_k: Tensor | None = None
        self._mean_v: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Give what is held."""
        held = super().tensors()
        if self._mean_k is not None and self._mean_v is not None:
            held |= {"mean_k": self._mean_k, "mean_v": self._mean_v}
        return held

    def take(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> None:
        """Keep new tokens, and pool the blocks that they fill."""
        super().take(q, k, v, scale=scale)
        self._mean_k = blocks.add_means(self._mean_k, self.past.k, block=self._block)
        self._mean_v = blocks.add_means(self._mean_v, self.past.v, block=self._block)

    def look(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend by the three branches; as PeerLayer.look."""
        tile = kernels.tile_for(q, keys=self._block) if kernels.use_kernels(q) else None
        if tile is not None:
            return self._by_kernels(q, position, scale, tile)
        out = torch.empty_like(q)
        of_pooled, of_chosen, of_window = self._gates
        for a in range(0, q.shape[2], _ROWS):
            rows = q[:, :, a : a + _ROWS]
            pooled, weight = self._to_pooled(rows, position + a, scale)
            out[:, :, a : a + _ROWS] = (
                of_pooled * pooled
                + of_chosen * sdpa.wide(self._to_chosen(rows, weight, position + a, scale))
                + of_window * sdpa.wide(self._to_window(rows, position + a, scale))
            )
        return out

    def _by_kernels(self, q: Tensor, position: int, scale: float, tile: "Tile") -> Tensor:
        """Attend by the kernels; a program reads the blocks that one query has chosen."""
        from cca_kernels.block_weights import block_weights
        from cca_kernels.listed_attention import listed_attention

        assert self._mean_k is not None and self._mean_v is not None
        k, v = self.past.k, self.past.v
        B, _, L, _ = q.shape
        of_pooled, of_chosen, of_window = self._gates
        out = torch.empty_like(q)
        step = max(1, blocks.SCORES // (B * k.shape[1] * (self.seen // self._block + 1)))
        for a in range(0, L, step):
            rows, at = q[:, :, a : a + step], position + a
            end = at + rows.shape[2]
            with on_device(q.device):
                pooled, lse = listed_attention(
                    rows, self._mean_k.to(q.dtype), self._mean_v.to(q.dtype), position=at,
                    key_start=self._block - 1, key_step=self._block, scale=scale,
                )  # fmt: skip
                weight = block_weights(
                    rows, self._mean_k, lse, position=at, block=self._block, scale=scale,
                    first=self._initial, last=self._local,
                )  # fmt: skip
                # The own block has the largest weight, what lies ahead the least: it comes last.
                best = weight.topk(min(self._count, weight.shape[-1])).indices
                chosen = kernels.by_query(
                    rows, k[:, :, :end], v[:, :, :end], best,
                    position=at, block=self._block, tile=tile, scale=scale,
                )  # fmt: skip
                near = kernels.in_window(
                    rows, k[:, :, :end], v[:, :, :end], position=at, start=0, window=self._window,
                    scale=scale,
                )  # fmt: skip
            total = sdpa.wide(pooled) * of_pooled
            total.add_(chosen, alpha=of_chosen).add_(near, alpha=of_window)
            out[:, :, a : a + step] = total
        return out

    def _to_pooled(self, q: Tensor, position: int, scale: float) -> tuple[Tensor, Tensor]:
        """Attend to means of blocks that end at or before a query; and give the weights.

        Returns:
            Outputs [B, H, L, D] and weights [B, H, L, M], in float32 at least; 0 where a query
            has no full block.
        """
        assert self._mean_k is not None and self._mean_v is not None
        # Blocks chosen by these weights: the scores must not be rounded.
        score = blocks.grouped(sdpa.wide(q), self._mean_k.transpose(-1, -2)) * scale
        query = torch.arange(position, position + q.shape[2], device=q.device)
        last = torch.arange(1, score.shape[3] + 1, device=q.device) * self._block - 1
        score = score.masked_fill(last > query[:, None], -torch.inf)
        weight = score.softmax(-1).nan_to_num(0.0)
        return blocks.grouped(weight, self._mean_v), weight

    def _to_chosen(self, q: Tensor, weight: Tensor, position: int, scale: float) -> Tensor:
        """Attend to all tokens of the blocks with the largest weights, [B, H, L, D]."""
        B, H, L, D = q.shape
        KV = self.past.k.shape[1]
        chosen = blocks.choose(
            weight.unflatten(1, (KV, H // KV)).sum(2), position,
            block=self._block, count=self._count, first=self._initial, last=self._local,
        )  # fmt: skip
        crowd = _CROWD.get(q.device.type, _CROWD_ELSEWHERE)
        if L > 1 and L * self._count >= crowd * chosen.shape[-1]:
            by_head = chosen.repeat_interleave(H // KV, 1)
            return blocks.by_block(
                q, self.past.k, self.past.v, by_head, position, block=self._block, scale=scale
            )
        lists = blocks.listed(chosen, min(self._count, chosen.shape[-1]))  # [B, KV, L, n]
        rows = q.unflatten(1, (KV, H // KV)).transpose(2, 3)  # [B, KV, L, G, D]
        out = torch.empty_like(rows)
        step = max(1, _GATHERED // (B * KV * lists.shape[-1] * self._block * D))
        for a in range(0, L, step):
            part = slice(a, min(a + step, L))
            tokens = blocks.tokens_of(lists[:, :, part], block=self._block)
            query = torch.arange(position + part.start, position + part.stop, device=q.device)
            k, v = (blocks.gather(x, tokens) for x in (self.past.k, self.past.v))
            score = rows[:, :, part] @ k.transpose(-1, -2) * scale  # [B, KV, l, G, n * block]
            # Also the filling of short lists, whose positions no query has reached.
            ahead = (tokens > query[:, None])[:, :, :, None]
            out[:, :, part] = sdpa.softmax(score.masked_fill(ahead, -torch.inf)) @ v
        return out.transpose(2, 3).flatten(1, 2)

    def _to_window(self, q: Tensor, position: int, scale: float) -> Tensor:
        """Attend to the last tokens, [B, H, L, D]."""
        L = q.shape[2]
        begin = max(0, position + 1 - self._window)
        k, v = (x[:, :, begin : position + L] for x in (self.past.k, self.past.v))
        if L == 1:
            return sdpa.dense(q, k, v, scale=scale)
        query = torch.arange(position, position + L, device=q.device)[:, None]
        key = torch.arange(begin, position + L, device=q.device)
        near = (key <= query) & (key > query - self._window)
        return sdpa.masked(q, k, v, near, scale=scale)


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, block: int, count: int,
    window: int, initial: int, local: int, gates: Sequence[float],
) -> Tensor:  # fmt: skip
    L, full = q.shape[2], q.shape[2] // block
    i = torch.arange(L)[:, None]
    key_mean, value_mean = (
        x[:, :, : full * block].unflatten(2, (full, block)).mean(3) for x in (k, v)
    )
    score = oracle.scores(q, key_mean, scale=scale)
    complete = (torch.arange(full) + 1) * block - 1 <= i
    pooled = oracle.weighted(score, complete, value_mean)

    share = score.masked_fill(~complete, -torch.inf).softmax(-1).nan_to_num(0.0)
    share = share.unflatten(1, (k.shape[1], -1)).sum(2)  # [B, KV, L, full]
    c, own = torch.arange(-(-L // block)), i // block
    always = (c < initial) | ((own - local < c) & (c <= own))
    worth = torch.where(always, 1e9, F.pad(share, (0, len(c) - full)))
    worth = worth.masked_fill(c > own, -1.0)
    rank = worth.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    best = (rank < count).repeat_interleave(block, -1)[..., :L]
    chosen = oracle.by_mask(q, k, v, oracle.spread(best, q.shape[1]), scale=scale)

    near = oracle.by_mask(q, k, v, torch.arange(L) > i - window, scale=scale)
    return gates[0] * pooled + gates[1] * chosen + gates[2] * near


def _make(place: Place, **settings: Any) -> NSALayer:
    return NSALayer(**settings)


RECORD = AttentionRecord(
    name="nsa",
    title="Native Sparse Attention",
    make=_make,
    oracle=_oracle,
    settings={
        "block": 64, "count": 16, "window": 512, "initial": 1, "local": 2,
        "gates": (1 / 3, 1 / 3, 1 / 3),
    },
    paper="Yuan et al., ACL 2025 (arXiv 2502.11089)",
    needs_tuning=True,
    prefill="sparse",
    decode="sparse",
    kv_kept="all",
    reaches_all=True,
    adapted="constant gates, as a stock checkpoint has none; blocks of 64 pooled by their mean, "
    "after rotation, where the authors train an MLP over overlapping blocks of 32",
    note="untrained it is a line for speed, not for answers; no code by the authors: pooling as in "
    "fla-org/flash-linear-attention",
)  # fmt: skip
