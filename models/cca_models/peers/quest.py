"""Quest: the prompt is read densely, each later token reads the pages that may matter to it most.

Keys are held in pages, each with the largest and the smallest value of every channel. No key of a
page can score higher with q than sum_d max(q_d high_d, q_d low_d); a decoding step reads, for every
query head on its own, the pages with the highest such bounds. A piece of more than one token is a
prompt, a piece of one token a decoding step. All is kept; what is saved is reading.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_models.peers import oracle, sdpa
from cca_models.peers.past import Past, PeerLayer
from cca_models.peers.records import AttentionRecord, Place

# The authors' lower limit of what a step reads.
_FEWEST_PAGES = 3


class QuestLayer(PeerLayer):
    """All tokens, and the bounds of their pages.

    Args:
        place: The first layers stay dense.
        page: Tokens of a page.
        keep: Tokens that a decoding step reads, rounded down to pages; three pages at least.
        dense_layers: First layers that always read everything; they have no bounds.
    """

    def __init__(self, place: Place, *, page: int, keep: int, dense_layers: int) -> None:
        super().__init__()
        self._page = page
        self._chosen = max(_FEWEST_PAGES, keep // page)
        self._selects = place.layer >= dense_layers
        self._decoding = False
        # Bounds of full pages (high where a Past has keys, low where it has values) and of the
        # page being filled. The latter are replaced and never written to: forks share them.
        self._full = Past()
        self._open: tuple[Tensor, Tensor] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Give what is held."""
        held = super().tensors()
        if len(self._full):
            held |= {"page_high": self._full.k, "page_low": self._full.v}
        if self._open is not None:
            held |= {"open_high": self._open[0], "open_low": self._open[1]}
        return held

    def expect(self, tokens: int) -> None:
        """Make room for so many tokens, and for the bounds of their pages."""
        super().expect(tokens)
        self._full.expected = -(-tokens // self._page)

    def restore(self, tensors: Mapping[str, Tensor], *, seen: int) -> None:
        """Take over saved keys and values; as PeerLayer.restore. Bounds are found again."""
        super().restore({name: tensors[name] for name in ("k", "v")}, seen=seen)
        self._full, self._open = Past(), None
        if self._selects:
            self._bound(tensors["k"], 0)

    def take(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> None:
        """Keep new tokens, and bring the bounds up to date."""
        super().take(q, k, v, scale=scale)
        # `look` cannot tell: of a prompt it may be shown the last query alone.
        self._decoding = k.shape[2] == 1
        if self._selects:
            self._bound(k, self.seen)

    def look(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend to everything from a prompt, to the chosen pages from a single token."""
        k, v = self.past.k, self.past.v
        pages = -(-len(self.past) // self._page)
        if not (self._selects and self._decoding) or pages <= self._chosen:
            return sdpa.dense(q, k, v, scale=scale)
        B, H, _, D = q.shape
        KV = k.shape[1]
        chosen = self._bounds(q.view(B, KV, H // KV, D)).topk(self._chosen, sorted=False).indices
        place = torch.arange(self._page, device=q.device)
        tokens = (chosen[..., None] * self._page + place).flatten(3)  # [B, KV, H / KV, T]
        held = tokens < len(self.past)
        # What the open page still lacks is masked; its index must exist all the same.
        index = tokens.clamp(max=len(self.past) - 1).flatten(2)[..., None].expand(-1, -1, -1, D)
        k, v = (t.gather(2, index).view(B, H, -1, D) for t in (k, v))
        mask = held.view(B, H, 1, -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    def _bound(self, k: Tensor, position: int) -> None:
        """Take new keys, the first of them at a position, into the bounds of their pages."""
        lacking = -position % self._page
        first, k = k[:, :, :lacking], k[:, :, lacking:]
        if first.shape[2]:
            assert self._open is not None
            high, low = self._open
            high = torch.maximum(high, first.amax(2, keepdim=True))
            low = torch.minimum(low, first.amin(2, keepdim=True))
            self._open = high, low
            if first.shape[2] == lacking:
                self._full.append(high, low)
                self._open = None
        full = k.shape[2] // self._page * self._page
        if full:
            paged = k[:, :, :full].unflatten(2, (-1, self._page))  # [B, KV, P, page, D]
            self._full.append(paged.amax(3), paged.amin(3))
        if k.shape[2] > full:
            rest = k[:, :, full:]
            self._open = rest.amax(2, keepdim=True), rest.amin(2, keepdim=True)

    def _bounds(self, q: Tensor) -> Tensor:
        """Bound the scores of all pages, [B, KV, H / KV, D] -> [B, KV, H / KV, P], unscaled."""
        parts = [(self._full.k, self._full.v)] + ([self._open] if self._open is not None else [])
        # A channel's larger product is with `high` where q is positive, else with `low`.
        above, below = q.clamp(min=0), q.clamp(max=0)
        # Read as they are held; a float32 copy of the bounds would cost more than reading them.
        scores = [sdpa.product(above, high) + sdpa.product(below, low) for high, low in parts]
        return torch.cat(scores, -1)


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, **settings: Any
) -> Tensor:
    # The prompt is read densely; decoding is defined in the tests.
    return oracle.by_mask(q, k, v, oracle.causal(q.shape[2], device=q.device), scale=scale)


def _make(place: Place, **settings: Any) -> QuestLayer:
    return QuestLayer(place, **settings)


RECORD = AttentionRecord(
    name="quest",
    title="Quest",
    make=_make,
    oracle=_oracle,
    settings={"page": 16, "keep": 1024, "dense_layers": 2},
    paper="Tang et al., ICML 2024 (arXiv 2406.10774)",
    code="mit-han-lab/Quest",
    needs_tuning=False,
    prefill="dense",
    decode="sparse",
    kv_kept="all",
    reaches_all=True,
    shortest=1024,
    whole_prompt=True,
    incremental=False,
    note="follows the authors' evaluation code: pages are chosen for each query head and the "
    "newest competes like any other (their kernels always read it); texts that fit into the "
    "budget are read whole, as by their kernels",
)
