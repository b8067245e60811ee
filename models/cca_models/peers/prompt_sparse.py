"""What attentions share that are sparse over the prompt alone: when they are, and gathering.

Shapes: q [B, H, L, D]; k, v [B, KV, S, D]; H is a multiple of KV. The prompt is what a memory is
given first, in one piece; all that follows is read with full attention over all that is held.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_models.peers import sdpa
from cca_models.peers.past import PeerLayer

# Entries of a mask [B, H, rows, keys] at a time.
_ENTRIES = 1 << 27


class PromptSparseLayer(PeerLayer):
    """Keeps everything; a subclass says what the prompt's queries see."""

    def __init__(self) -> None:
        super().__init__()
        self._in_prompt = False

    def take(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> None:
        """Keep new tokens; if they are the prompt, choose what is seen of it."""
        super().take(q, k, v, scale=scale)
        self._in_prompt = self.seen == 0
        if self._in_prompt:
            self.choose(q, scale=scale)

    def look(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend as the prompt's choice says, or to everything; as PeerLayer.look."""
        if self._in_prompt:
            return self.look_in_prompt(q, position, scale=scale)
        return sdpa.dense(q, self.past.k, self.past.v, scale=scale)

    def forget(self, q: Tensor, position: int, *, scale: float) -> None:
        """Let go of the choice: it holds for the prompt only."""
        self._in_prompt = False

    def choose(self, q: Tensor, *, scale: float) -> None:
        """Choose from all queries of the prompt; its keys are held already."""

    def look_in_prompt(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend within the prompt; as PeerLayer.look."""
        raise NotImplementedError


def some_heads(q: Tensor, kv_heads: int, *, rows: int, keys: int) -> Iterator[tuple[slice, slice]]:
    """Split the heads so that a mask of rows x keys stays small: KV heads, and their query heads.

    Args:
        q: Queries; gives batch and heads.
        kv_heads: KV heads, KV.
        rows: Queries at a time.
        keys: Keys that they see at most.
    """
    group = q.shape[1] // kv_heads
    step = max(1, _ENTRIES // max(1, q.shape[0] * group * rows * keys))
    for a in range(0, kv_heads, step):
        e = min(a + step, kv_heads)
        yield slice(a, e), slice(a * group, e * group)


def places(chosen: Tensor, most: int) -> Tensor:
    """Give the indices of what is chosen along the last axis, in order, then of what is not.

    Args:
        chosen: Booleans, [..., M].
        most: Indices to give, at least as many as are chosen anywhere.
    """
    order = torch.argsort(chosen.byte(), dim=-1, descending=True, stable=True)
    return order[..., :most]


def gathered(q: Tensor, k: Tensor, v: Tensor, at: Tensor, mask: Tensor, *, scale: float) -> Tensor:
    """Attend to keys that every query head picks for itself.

    Args:
        q: [B, H, L, D].
        k: Keys, [B, KV, S, D].
        v: Values, like k.
        at: Places of the keys, [B, H, K]; places past S must be masked.
        mask: [B, H, L, K]; True where a query sees a key. Every query must see one.
        scale: Factor on the scores.

    Returns:
        [B, H, L, D].
    """
    B, H = q.shape[:2]
    row = torch.arange(B, device=q.device)[:, None, None]
    head = torch.arange(H, device=q.device)[None, :, None] // (H // k.shape[1])
    at = at.clamp(max=k.shape[2] - 1)
    return F.scaled_dot_product_attention(
        q, k[row, head, at], v[row, head, at], attn_mask=mask, scale=scale
    )
