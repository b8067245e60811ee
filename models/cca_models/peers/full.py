"""Full attention: exact, and the reference for all others."""

from typing import Any

from torch import Tensor

from cca_models.peers import oracle, sdpa
from cca_models.peers.past import PeerLayer
from cca_models.peers.records import AttentionRecord, Place


class FullLayer(PeerLayer):
    """Keeps everything and sees everything."""

    def look(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend causally; as PeerLayer.look."""
        return sdpa.dense(q, self.past.k, self.past.v, scale=scale)


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, **settings: Any
) -> Tensor:
    return oracle.by_mask(q, k, v, oracle.causal(q.shape[2], device=q.device), scale=scale)


RECORD = AttentionRecord(
    name="full",
    title="Full attention",
    make=lambda place: FullLayer(),
    oracle=_oracle,
    paper="Vaswani et al., NeurIPS 2017 (arXiv 1706.03762); kernels: FlashAttention, cuDNN",
    code="pytorch/pytorch (scaled_dot_product_attention)",
    needs_tuning=False,
    prefill="dense",
    decode="dense",
    kv_kept="all",
    exact=True,
    reaches_all=True,
)
