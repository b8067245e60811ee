"""LongLoRA's shifted sparse attention: how a model is trained, not how it reads.

A sequence is cut into blocks of a quarter of its length. The first half of the heads attends
within blocks; the other half within blocks shifted by half a block, where the shift cuts the
sequence: its first half-block stands alone. (Rolling it around, as one of the authors' two
implementations does, lets the start of a text see its end.) A prompt is read so, as a training
sequence is; what comes after it sees everything.

A length that 4 does not divide gives blocks of the next larger size; the last one is shorter.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cca_models.peers import oracle, sdpa
from cca_models.peers.past import PeerLayer
from cca_models.peers.records import AttentionRecord, Place


class LongLoRALayer(PeerLayer):
    """Reads a prompt, the tokens of the first call, in blocks; after it, full attention.

    Args:
        group_ratio: Size of a block over the length of the prompt, in (0, 1].

    Raises:
        ValueError: If the ratio is none.
    """

    def __init__(self, *, group_ratio: float) -> None:
        super().__init__()
        if not 0 < group_ratio <= 1:
            raise ValueError(f"expected group_ratio in (0, 1], got {group_ratio}")
        self._ratio, self._prompt = group_ratio, 0

    def take(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> None:
        """Keep new tokens; the first ones are the prompt."""
        if not self.seen:
            self._prompt = k.shape[2]
        super().take(q, k, v, scale=scale)

    def look(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend within blocks, or after the prompt to everything; as PeerLayer.look."""
        if position >= self._prompt:
            return sdpa.dense(q, self.past.k, self.past.v, scale=scale)
        H = q.shape[1]
        block = math.ceil(self._prompt * self._ratio)
        out = torch.empty_like(q)
        for heads, shift in ((slice(0, H // 2), 0), (slice(H // 2, H), block // 2)):
            k, v = (_of_heads(t, heads, H) for t in (self.past.k, self.past.v))
            for begin, end in _pieces(self._prompt, block, shift):
                a = max(begin, position)
                if a >= end or heads.start == heads.stop:
                    continue
                rows = slice(a - position, end - position)
                piece = slice(begin, end)
                out[:, heads, rows] = sdpa.dense(
                    q[:, heads, rows], k[:, :, piece], v[:, :, piece], scale=scale
                )
        return out


def _pieces(length: int, block: int, shift: int) -> Iterator[tuple[int, int]]:
    """Give where blocks begin and end, the first after `shift` tokens if there is a shift."""
    begin, end = 0, shift or block
    while begin < length:
        yield begin, min(end, length)
        begin, end = end, end + block


def _of_heads(x: Tensor, heads: slice, H: int) -> Tensor:
    """Give the KV heads of a range of query heads; repeated where the range cuts a group."""
    G = H // x.shape[1]
    if heads.start % G or heads.stop % G:
        return oracle.spread(x, H)[:, heads]
    return x[:, heads.start // G : heads.stop // G]


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, group_ratio: float
) -> Tensor:
    H, L = q.shape[1:3]
    block = math.ceil(L * group_ratio)
    i = torch.arange(L)
    plain = i // block
    shifted = (i + block - block // 2) // block
    number = torch.stack([plain if h < H // 2 else shifted for h in range(H)])  # [H, L]
    return oracle.by_mask(q, k, v, number[:, :, None] == number[:, None], scale=scale)


def _make(place: Place, **settings: Any) -> LongLoRALayer:
    return LongLoRALayer(**settings)


RECORD = AttentionRecord(
    name="longlora",
    title="LongLoRA (shifted sparse attention)",
    make=_make,
    oracle=_oracle,
    settings={"group_ratio": 0.25},
    paper="Chen et al., ICLR 2024 (arXiv 2309.12307)",
    code="dvlab-research/LongLoRA",
    needs_tuning=True,
    prefill="training",
    decode="dense",
    kv_kept="all",
    reaches_all=True,
    adapted="the shift always cuts, also without FlashAttention; lengths that 4 does not divide "
    "get a shorter last block",
    whole_prompt=True,
    incremental=False,
    note="for training alone: its authors read prompts densely, so at inference it is dense; the "
    "prompt is read here as a training sequence is",
)
