"""Longformer made causal: a window, and first tokens that everybody sees.

Longformer is an encoder: it looks to both sides, and its global tokens have projections of their
own. Ours keeps what a causal decoder can: i sees j if i - w < j <= i or j is one of the first s
tokens, with the checkpoint's projections for all. A global token sees all before it; as the global
ones come first, those are global themselves. Positions are true ones.
"""

from typing import Any

import torch
from torch import Tensor

from cca_models.peers import oracle
from cca_models.peers.lambda_shape import LambdaLayer
from cca_models.peers.records import AttentionRecord, Place


class LongformerLayer(LambdaLayer):
    """Global first tokens and a window.

    Args:
        global_tokens: First tokens that all later ones see, s.
        window: Last tokens kept, w.
    """

    def __init__(self, *, global_tokens: int, window: int) -> None:
        super().__init__(first=global_tokens, window=window)


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, global_tokens: int, window: int
) -> Tensor:
    i = torch.arange(q.shape[2])
    is_global = i < global_tokens
    near = i[:, None] - i < window
    return oracle.by_mask(q, k, v, near | is_global | is_global[:, None], scale=scale)


def _make(place: Place, **settings: Any) -> LongformerLayer:
    return LongformerLayer(**settings)


RECORD = AttentionRecord(
    name="longformer",
    title="Longformer (causal)",
    make=_make,
    oracle=_oracle,
    settings={"global_tokens": 1, "window": 512},
    paper="Beltagy et al., 2020 (arXiv 2004.05150)",
    code="allenai/longformer",
    needs_tuning=True,
    prefill="sparse",
    decode="sparse",
    kv_kept="bounded",
    reaches_all=False,
    shortest=512,
    adapted="causal: the whole window of 512 looks back (theirs: 256 to each side), the first "
    "tokens are global, and global tokens share the projections",
)
