"""A-shape: over the prompt, all heads see the first tokens and a window, at their true positions.

The mask is StreamingLLM's, its positions are not. Decoding is full attention, as in the release of
MInference, of which it is the simplest pattern. Its record is among MInference's.
"""

from typing import Any

import torch
from torch import Tensor

from cca_models.peers import kernels, oracle, sdpa
from cca_models.peers.prompt_sparse import PromptSparseLayer
from cca_models.peers.records import AttentionRecord, Place

# Queries at a time.
_ROWS = 1024


class AShapeLayer(PromptSparseLayer):
    """The first tokens and a window, at their true positions.

    Args:
        sinks: First tokens.
        window: Last tokens, the query's own among them.
    """

    def __init__(self, *, sinks: int, window: int) -> None:
        super().__init__()
        self._sinks, self._window = sinks, window

    def look_in_prompt(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend by blocks of queries, to the keys that any of them sees."""
        k, v = self.past.k, self.past.v
        if k.shape[2] <= self._sinks + self._window:
            return sdpa.dense(q, k, v, scale=scale)
        if kernels.use_kernels(q):
            from cca_kernels.listed_attention import Columns

            columns = Columns(places=kernels.first_columns(self._sinks, q.device))
            return kernels.in_window(
                q, k, v, position=position, start=0, window=self._window, columns=columns,
                scale=scale,
            )  # fmt: skip
        out = torch.empty_like(q)
        place = torch.arange(k.shape[2], device=q.device)
        for a in range(0, q.shape[2], _ROWS):
            rows = slice(a, min(a + _ROWS, q.shape[2]))
            i = place[position + rows.start : position + rows.stop, None]
            begin = max(self._sinks, position + a - self._window + 1)
            near = slice(begin, position + rows.stop)
            at, key, value = (
                torch.cat([x[..., : self._sinks, :], x[..., near, :]], -2)
                for x in (place[:, None], k, v)
            )
            far = i - at[:, 0]
            mask = (far >= 0) & ((far < self._window) | (at[:, 0] < self._sinks))
            out[:, :, rows] = sdpa.masked(q[:, :, rows], key, value, mask, scale=scale)
        return out


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, sinks: int, window: int
) -> Tensor:
    i = torch.arange(q.shape[2])
    mask = (i[None] < sinks) | (i[None] > i[:, None] - window)
    return oracle.by_mask(q, k, v, mask, scale=scale)


def _make(place: Place, **settings: Any) -> AShapeLayer:
    return AShapeLayer(**settings)


A_SHAPE = AttentionRecord(
    name="minference-a-shape",
    title="A-shape (MInference)",
    make=_make,
    oracle=_oracle,
    settings={"sinks": 128, "window": 3968},
    paper="Jiang et al., NeurIPS 2024 (arXiv 2407.02490); sizes: SCBench (arXiv 2412.10319)",
    code="microsoft/MInference",
    needs_tuning=False,
    prefill="sparse",
    decode="dense",
    kv_kept="all",
    reaches_all=False,
    shortest=4096,
    whole_prompt=True,
    incremental=False,
    note="all heads alike; decoding and turns after the prompt see everything, the prompt's "
    "own tokens do not",
)
