"""The engine's decoder with a peer's memories in place of CCA's."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cca_models.config import CCAConfig
from cca_models.decoder import Decoder
from cca_models.layer_memory import Layer
from cca_models.peers.records import AttentionRecord, Place, record
from cca_models.rope import Rotary

if TYPE_CHECKING:
    from torch import Tensor

    from cca_models.engine import LanguageModel

# More tokens than any prompt has: it is read in one piece.
_WHOLE = 1 << 30


class PeerDecoder(Decoder):
    """A decoder whose layers remember as a peer does.

    Args:
        config: The checkpoint's config.json.
        weights: Its tensors.
        peer: The attention.
        settings: What differs from its defaults.

    Raises:
        ValueError: If it has no setting of that name.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: "Mapping[str, Tensor]",
        *,
        peer: AttentionRecord,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config, weights)
        changed = dict(settings or {})
        if unknown := sorted(set(changed) - set(peer.settings)):
            known = ", ".join(peer.settings) or "no settings"
            raise ValueError(f"expected settings of {peer.name} ({known}), got {unknown[0]!r}")
        self.peer = peer
        self.settings: Mapping[str, Any] = {**peer.settings, **changed}

    @property
    def chunk(self) -> int:
        """Tokens to read at a time: all, where the attention must see the whole prompt."""
        return _WHOLE if self.peer.whole_prompt else super().chunk

    def new_layer_memories(
        self, config: CCAConfig, *, capacity: int, rotary: Rotary
    ) -> Sequence[Layer]:
        """Make an empty memory for every layer."""
        return [
            self.peer.make(
                Place(
                    layer=i, layers=self.num_layers, heads=self.heads, kv_heads=self.kv_heads,
                    head_dim=self.head_dim, frequencies=rotary.frequencies,
                ),
                **self.settings,
            )
            for i in range(self.num_layers)
        ]  # fmt: skip


def peer_model(model: "LanguageModel", name: str, **settings: Any) -> "LanguageModel":
    """Make a model that reads with a peer's attention; weights and tokenizer are shared.

    Raises:
        ValueError: If there is no such attention, or it has no such setting.
    """
    twin = copy.copy(model)
    twin.decoder = PeerDecoder(
        model.checkpoint.config, model.decoder.weights, peer=record(name), settings=settings
    )
    return twin
