"""SnapKV: after the prompt, only what its last queries looked at is kept.

The prompt is read densely. Then every KV head keeps its last `window` tokens and, of those before,
the `keep` with the most attention from the last `window` queries, averaged over neighbours. Keys
stay rotated as they were. Later tokens see what was kept and each other. The first piece read is
the prompt: it alone is thinned out, what comes later is all kept.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_models.peers import oracle, sdpa
from cca_models.peers.past import Past, PeerLayer
from cca_models.peers.records import AttentionRecord, Place

# Scores of the window held at a time: 512 MiB in float32.
_SCORES = 1 << 27


class SnapLayer(PeerLayer):
    """What was chosen of the prompt, and all tokens since.

    Args:
        keep: Tokens chosen before the window.
        window: Last tokens of the prompt, whose queries choose; all of them are kept.
        pool: Neighbours over which attention is averaged before the choice.

    Raises:
        ValueError: If the window is empty or pool is even.
    """

    def __init__(self, *, keep: int, window: int, pool: int) -> None:
        super().__init__()
        if window < 1 or pool % 2 == 0:
            raise ValueError(f"expected window >= 1 and an odd pool, got {window} and {pool}")
        self._keep, self._window, self._pool = keep, window, pool
        self._watching: Tensor | None = None

    def take(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> None:
        """Keep new tokens; of a prompt note the queries that will choose."""
        super().take(q, k, v, scale=scale)
        # `forget` may be shown the last query alone.
        self._watching = q[:, :, -self._window :] if self.seen == 0 else None

    def look(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend to all that is held; as PeerLayer.look."""
        return sdpa.dense(q, self.past.k, self.past.v, scale=scale)

    def forget(self, q: Tensor, position: int, *, scale: float) -> None:
        """Thin out a prompt that has just been read."""
        watching, self._watching = self._watching, None
        if watching is None or len(self.past) <= self._keep + self._window:
            return
        k, v = self.past.k, self.past.v
        chosen = self._votes(watching, k, scale).topk(self._keep, sorted=False).indices
        before = k.shape[2] - self._window
        last = torch.arange(before, k.shape[2], device=k.device).expand(*k.shape[:2], -1)
        # In the order of the text, as far as a head has it.
        kept = torch.cat([chosen.sort(-1).values, last], -1)  # [B, KV, keep + window]
        index = kept[..., None].expand(-1, -1, -1, k.shape[3])
        self.past = Past()
        self.past.append(k.gather(2, index), v.gather(2, index))

    def _votes(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """Find the attention that tokens before the window get from it, [B, KV, L - W]."""
        H, W = q.shape[1:3]
        KV, L = k.shape[1:3]
        place = torch.arange(L, device=q.device)
        later = place > place[-W:, None]
        votes = []
        # A few KV heads at a time: scores are wide and long.
        step = max(1, _SCORES // (q.shape[0] * H // KV * W * L))
        for queries, keys in zip(q.split(step * H // KV, 1), k.split(step, 1), strict=True):
            score = sdpa.product(queries, keys).mul_(scale).masked_fill_(later, -torch.inf)
            weight = score.softmax(-1)[..., :-W].unflatten(1, (-1, H // KV))
            votes.append(weight.mean((2, 3)))
        return F.avg_pool1d(torch.cat(votes, 1), self._pool, stride=1, padding=self._pool // 2)


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, **settings: Any
) -> Tensor:
    # The prompt is read densely; decoding is defined in the tests.
    return oracle.by_mask(q, k, v, oracle.causal(q.shape[2], device=q.device), scale=scale)


def _make(place: Place, **settings: Any) -> SnapLayer:
    return SnapLayer(**settings)


RECORD = AttentionRecord(
    name="snapkv",
    title="SnapKV",
    make=_make,
    oracle=_oracle,
    settings={"keep": 4096, "window": 32, "pool": 5},
    paper="Li et al., NeurIPS 2024 (arXiv 2404.14469)",
    code="FasterDecoding/SnapKV",
    needs_tuning=False,
    prefill="dense",
    decode="sparse",
    kv_kept="selected",
    reaches_all=False,
    shortest=4128,
    adapted="chosen and kept per KV head, by the mean over its query heads; the authors' code "
    "repeats keys and values for all query heads and chooses for each",
    whole_prompt=True,
    incremental=False,
    note="each step reads all that is kept; the window is kept in addition to `keep`, which the "
    "authors' capacity includes",
)
