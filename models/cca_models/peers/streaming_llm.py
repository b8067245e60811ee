"""StreamingLLM: the first few tokens and a window; positions are places in the cache.

The first S tokens are kept as sinks. The cache's keys are numbered from 0, so a query past S + W
tokens stands at S + W - 1 for the sinks, however far it is from them; tokens of the window keep
their true distance. Prompts are read in this form, too, as they would be token by token.
"""

from typing import Any

import torch
from torch import Tensor

from cca_models.peers import oracle
from cca_models.peers.lambda_shape import LambdaLayer
from cca_models.peers.records import AttentionRecord, Place
from cca_models.peers.turning import turn


class StreamingLayer(LambdaLayer):
    """Sinks and a window.

    Args:
        place: Gives the rotary frequencies.
        sinks: First tokens kept, S.
        window: Last tokens kept, W.
    """

    def __init__(self, place: Place, *, sinks: int, window: int) -> None:
        super().__init__(first=sinks, window=window, frequencies=place.frequencies)

    def far_turn(self, positions: Tensor) -> Tensor:
        """Turn queries back to the last place of the cache."""
        return (self.first_tokens + self.window - 1 - positions).clamp(max=0)


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, sinks: int, window: int
) -> Tensor:
    i = torch.arange(q.shape[2])
    far = i[None] < sinks
    near = (i[None] > i[:, None] - window) & ~far
    turned = turn(q, torch.clamp(sinks + window - 1 - i, max=0), place.frequencies)
    score = torch.where(
        far, oracle.scores(turned, k, scale=scale), oracle.scores(q, k, scale=scale)
    )
    return oracle.weighted(score, (far | near) & oracle.causal(len(i)), v)


def _make(place: Place, **settings: Any) -> StreamingLayer:
    return StreamingLayer(place, **settings)


RECORD = AttentionRecord(
    name="streaming-llm",
    title="StreamingLLM",
    make=_make,
    oracle=_oracle,
    settings={"sinks": 4, "window": 2000},
    paper="Xiao et al., ICLR 2024 (arXiv 2309.17453)",
    code="mit-han-lab/streaming-llm",
    needs_tuning=False,
    prefill="sparse",
    decode="sparse",
    kv_kept="bounded",
    reaches_all=False,
    shortest=2004,
    adapted="prompts are read in the form that decoding has; the authors' code reads them densely",
)
