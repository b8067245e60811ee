"""Sliding-window attention: CCA's raw tokens without its core tokens, to see what those carry.

A token at p sees the raw tokens m(p) * G .. p, exactly those that it sees one by one with CCA, and
nothing older. It is torch's attention with a mask, so it runs wherever torch does.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_kernels.partition import query_blocks
from cca_models.config import CCAConfig
from cca_models.decoder import Decoder
from cca_models.layer_memory import KEPT, Layer, Probe, Sight

_BLOCK = 1024


class SlidingDecoder(Decoder):
    """A decoder whose layers remember the window alone."""

    def new_layer_memory(self, config: CCAConfig, *, capacity: int) -> Layer:
        """Make an empty memory of a layer."""
        return SlidingLayer(config)


class SlidingLayer:
    """The raw tail of one layer; an implementation of cca_models.layer_memory.Layer."""

    def __init__(self, config: CCAConfig) -> None:
        self.config = config
        self.seen = 0
        self._k: Tensor | None = None
        self._v: Tensor | None = None

    @property
    def pooled(self) -> int:
        """Groups pooled: none, ever."""
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held."""
        return 0 if self._k is None else 2 * self._k.nbytes

    def tensors(self) -> dict[str, Tensor]:
        """Give what must be saved, under the names of KEPT."""
        if self._k is None or self._v is None:
            return {}
        none = self._k[:, :, :0]
        return dict(zip(KEPT, (none, none, self._k, self._v), strict=True))

    def restore(self, tensors: Mapping[str, Tensor], *, seen: int) -> None:
        """Take over saved tensors."""
        self.seen, self._k, self._v = seen, tensors["raw_k"], tensors["raw_v"]

    def fork(self) -> "SlidingLayer":
        """Make a second memory; tensors are never written to, so both may hold them."""
        twin = SlidingLayer(self.config)
        twin.seen, twin._k, twin._v = self.seen, self._k, self._v
        return twin

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        last_only: bool = False,
        probe: Probe | None = None,
    ) -> Tensor:
        """Take in new tokens and let them attend; as LayerMemory.attend."""
        position, L = self.seen, q.shape[2]
        if self._k is not None and self._v is not None:
            k, v = torch.cat([self._k, k], dim=2), torch.cat([self._v, v], dim=2)
        self.seen += L
        if last_only:
            q, position, L = q[:, :, -1:], self.seen - 1, 1
        out = torch.empty_like(q)
        settings = {"group_size": self.config.group_size, "window": self.config.window}
        for rows, _, raw in query_blocks(position, L, k.shape[2], block=_BLOCK, **settings):
            first = self.seen - k.shape[2] + raw.start  # position of the first key of the block
            p = torch.arange(position + rows.start, position + rows.stop, device=q.device)[:, None]
            start = (p + 1 - self.config.window).clamp(min=0) // self.config.group_size
            place = torch.arange(first, self.seen - k.shape[2] + raw.stop, device=q.device)[None]
            seen = (place >= start * self.config.group_size) & (place <= p)
            out[:, :, rows] = F.scaled_dot_product_attention(
                q[:, :, rows], _spread(k[:, :, raw], q), _spread(v[:, :, raw], q),
                attn_mask=seen, scale=scale,
            )  # fmt: skip
        if probe is not None:
            probe(Sight(q, position, k[:, :, :0], k))
        keep = self.seen - self.config.raw_start(self.seen)
        # Copies: a view would keep the whole chunk alive.
        self._k, self._v = k[:, :, -keep:].clone(), v[:, :, -keep:].clone()
        return out


def _spread(x: Tensor, q: Tensor) -> Tensor:
    """Repeat KV heads for the query heads that share them, [B, KV, S, D] -> [B, H, S, D]."""
    return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)
