"""MoBA: every query reads its own block and those whose mean key it scores highest.

The choice is made per query head, by q · mean(K of a block), unscaled; the own block counts among
the chosen. The authors' release reads prompts so and generates with full attention; a call with
one token is a step of generation here. `sparse_decode` keeps to the blocks there, too.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_models.peers import blocks, kernels, oracle, sdpa
from cca_models.peers.past import PeerLayer
from cca_models.peers.records import AttentionRecord, Place

# Queries whose choices and sums are held at a time, at most.
_ROWS = 1 << 14


class MoBALayer(PeerLayer):
    """All keys and values, and the mean keys of full blocks.

    Args:
        block: Tokens per block.
        count: Blocks read per query, its own among them.
        sparse_decode: Whether steps of one token read only chosen blocks.

    Raises:
        ValueError: If not even the own block would be read.
    """

    def __init__(self, *, block: int, count: int, sparse_decode: bool) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"expected count >= 1, got {count}")
        self._block, self._count, self._sparse_decode = block, count, sparse_decode
        # Replaced when it grows, never written to: a fork may share it.
        self._means: Tensor | None = None
        self._step = False

    def tensors(self) -> dict[str, Tensor]:
        """Give what is held."""
        held = super().tensors()
        return held if self._means is None else held | {"means": self._means}

    def take(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> None:
        """Keep new tokens, and the means of the blocks that they fill."""
        super().take(q, k, v, scale=scale)
        self._means = blocks.add_means(self._means, self.past.k, block=self._block)
        # The last query alone of a longer piece is no step of generation.
        self._step = k.shape[2] == 1

    def look(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend to chosen blocks, or in a step of generation to all; as PeerLayer.look."""
        if self._step and not self._sparse_decode:
            return sdpa.dense(q, self.past.k, self.past.v, scale=scale)
        if q.shape[2] == 1:
            return self._one(q, position, scale)
        B, H, L, _ = q.shape
        most = L if kernels.use_kernels(q) else _ROWS
        step = max(1, min(most, blocks.SCORES // (B * H * (self.seen // self._block + 1))))
        parts = [self._many(q[:, :, a : a + step], position + a, scale) for a in range(0, L, step)]
        return torch.cat(parts, 2)

    def _chosen(self, q: Tensor, position: int) -> Tensor:
        """Choose blocks, [B, H, L, N]."""
        assert self._means is not None
        gate = blocks.grouped(sdpa.wide(q), self._means.transpose(-1, -2))
        return blocks.choose(gate, position, block=self._block, count=self._count)

    def _one(self, q: Tensor, position: int, scale: float) -> Tensor:
        """Attend from one query, to the blocks that any head of a KV head's group has chosen."""
        B, H, _, D = q.shape
        k, v = self.past.k, self.past.v
        KV, S = k.shape[1:3]
        G = H // KV
        chosen = self._chosen(q, position).reshape(B, KV, G, -1)  # [B, KV, G, N]
        N = chosen.shape[3]
        if G * self._count >= N:
            # They may be all: nothing is gained by copying.
            seen = chosen.repeat_interleave(self._block, -1)[..., :S]
        else:
            lists = blocks.listed(chosen.any(2), G * self._count)  # [B, KV, n]
            tokens = blocks.tokens_of(lists, block=self._block)[:, :, None]  # [B, KV, 1, n * block]
            k, v = (blocks.gather(x, tokens)[:, :, 0] for x in (k, v))
            # Short lists are filled up with N, a block that no head has chosen.
            by_head = lists[:, :, None].expand(-1, -1, G, -1)
            seen = F.pad(chosen, (0, 1)).gather(3, by_head).repeat_interleave(self._block, -1)
            seen = seen & (tokens <= position)
        score = q.reshape(B, KV, G, D) @ k.transpose(-1, -2) * scale
        weight = sdpa.softmax(score.masked_fill(~seen, -torch.inf))
        return (weight @ v).reshape(B, H, 1, D)

    def _many(self, q: Tensor, position: int, scale: float) -> Tensor:
        """Attend from many queries."""
        chosen = self._chosen(q, position)
        tile = kernels.tile_for(q, keys=self._block) if kernels.use_kernels(q) else None
        if tile is not None:
            return kernels.by_choice(
                q, self.past.k, self.past.v, chosen, position=position, block=self._block,
                tile=tile, scale=scale,
            )  # fmt: skip
        return blocks.by_block(
            q, self.past.k, self.past.v, chosen, position, block=self._block, scale=scale
        )


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, block: int, count: int,
    **settings: Any,
) -> Tensor:  # fmt: skip
    L = q.shape[2]
    mean = torch.stack([part.mean(2) for part in k.split(block, 2)], 2)
    gate = oracle.scores(q, mean, scale=1.0)  # [B, H, L, N]
    own, c = torch.arange(L)[:, None] // block, torch.arange(mean.shape[2])
    gate = gate.masked_fill(c > own, -torch.inf).masked_fill(c == own, torch.inf)
    rank = gate.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    chosen = (rank < count).repeat_interleave(block, -1)[..., :L]
    return oracle.by_mask(q, k, v, chosen, scale=scale)


def _make(place: Place, **settings: Any) -> MoBALayer:
    return MoBALayer(**settings)


RECORD = AttentionRecord(
    name="moba",
    title="Mixture of Block Attention",
    make=_make,
    oracle=_oracle,
    settings={"block": 4096, "count": 12, "sparse_decode": False},
    paper="Lu et al., NeurIPS 2025 (arXiv 2502.13189)",
    code="MoonshotAI/MoBA",
    needs_tuning=True,
    prefill="sparse",
    decode="dense",
    kv_kept="all",
    reaches_all=True,
    shortest=12 * 4096,
    adapted="prompts may be read in pieces; the authors' code reads every piece after the first "
    "densely",
    # The steps after a prompt are dense, so token by token nothing is left out.
    incremental=False,
    note="generation attends to everything, as in the authors' code; sparse_decode=True keeps to "
    "the chosen blocks",
)
