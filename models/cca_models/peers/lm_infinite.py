"""LM-Infinite: the first few tokens and a window as long as the model was trained for.

No distance is larger than that window L. To queries that are L or more away, all first tokens
seem to stand at distance L exactly: their keys are turned back to position 0, the query to
position L. (StreamingLLM keeps the sinks' own small differences, and never clamps nearer ones.)
"""

from typing import Any

import torch
from torch import Tensor

from cca_models.peers import oracle
from cca_models.peers.lambda_shape import LambdaLayer
from cca_models.peers.records import AttentionRecord, Place
from cca_models.peers.turning import turn


class LMInfiniteLayer(LambdaLayer):
    """First tokens, from afar at one distance, and a window.

    Args:
        place: Gives the rotary frequencies.
        global_tokens: First tokens kept, S.
        window: Last tokens kept and the largest distance, L.
    """

    def __init__(self, place: Place, *, global_tokens: int, window: int) -> None:
        super().__init__(first=global_tokens, window=window, frequencies=place.frequencies)

    def far_keys(self, k: Tensor, position: int) -> Tensor:
        """Turn keys back to position 0."""
        back = -torch.arange(position, position + k.shape[2], device=k.device)
        return turn(k, back, self._frequencies_at(k.device)).to(k.dtype)

    def far_turn(self, positions: Tensor) -> Tensor:
        """Turn queries back to position L."""
        return self.window - positions


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, global_tokens: int, window: int
) -> Tensor:
    i = torch.arange(q.shape[2])
    distance = i[:, None] - i
    at_zero, at_limit = turn(k, -i, place.frequencies), turn(q, window - i, place.frequencies)
    score = torch.where(
        distance >= window,
        oracle.scores(at_limit, at_zero, scale=scale),
        oracle.scores(q, k, scale=scale),
    )
    allowed = (distance >= 0) & ((distance < window) | (i < global_tokens))
    return oracle.weighted(score, allowed, v)


def _make(place: Place, **settings: Any) -> LMInfiniteLayer:
    return LMInfiniteLayer(place, **settings)


RECORD = AttentionRecord(
    name="lm-infinite",
    title="LM-Infinite",
    make=_make,
    oracle=_oracle,
    settings={"global_tokens": 10, "window": 4096},
    paper="Han et al., NAACL 2024 (arXiv 2308.16137)",
    code="Glaciohound/LM-Infinite",
    needs_tuning=False,
    prefill="sparse",
    decode="sparse",
    kv_kept="bounded",
    reaches_all=False,
    shortest=4096,
    adapted="grouped KV heads; the authors' code knows only as many as there are query heads",
    note="the window should be the length that the checkpoint was trained with, 4,096 for Llama 2; "
    "the optional return of the top 5 tokens from the middle is left out",
)
