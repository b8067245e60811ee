"""The engine's decoders with a peer's memories in place of CCA's."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cca_models.config import CCAConfig
from cca_models.decoder import Decoder
from cca_models.layer_memory import Layer
from cca_models.peers.past import PeerLayer
from cca_models.peers.records import AttentionRecord, Place, record
from cca_models.rope import Rotary

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel

# More tokens than any prompt has: it is read in one piece.
_WHOLE = 1 << 30


class PeerDecoder(Decoder):
    """A decoder whose layers remember as a peer does; `read_with` makes it.

    Attributes:
        peer: The attention.
        settings: Its settings.
    """

    peer: AttentionRecord
    settings: Mapping[str, Any]

    @property
    def chunk(self) -> int:
        """Tokens to read at a time: all, where the attention must see the whole prompt."""
        return _WHOLE if self.peer.whole_prompt else super().chunk

    def new_layer_memories(
        self, config: CCAConfig, *, capacity: int, rotary: Rotary
    ) -> Sequence[Layer]:
        """Make an empty memory for every layer."""
        layers = [
            self.peer.make(
                Place(
                    layer=i, layers=self.num_layers, heads=self.heads, kv_heads=self.kv_heads,
                    head_dim=self.head_dim, frequencies=rotary.frequencies,
                ),
                **self.settings,
            )
            for i in range(self.num_layers)
        ]  # fmt: skip
        if self.peer.kv_kept == "all":
            for layer in layers:
                if isinstance(layer, PeerLayer):
                    layer.expect(capacity)
        return layers

    def stepper(self, config: CCAConfig) -> None:
        """Give nothing: the captured step is CCA's."""


def read_with(decoder: Decoder, name: str, **settings: Any) -> PeerDecoder:
    """Make a decoder that reads with a peer's attention, its weights and kernels those of another.

    Args:
        decoder: As make_decoder makes it; fused where the device has kernels.
        name: Of the attention.
        settings: What differs from its authors' defaults.

    Raises:
        ValueError: If there is no such attention, or it has no such setting.
    """
    peer = record(name)
    chosen = peer.settled(settings)
    # What is loaded and merged stays as it is; only what makes memories is another.
    kind: Any = type(f"Peer{type(decoder).__name__}", (PeerDecoder, type(decoder)), {})
    twin: PeerDecoder = kind.__new__(kind)
    twin.__dict__.update(vars(decoder))
    twin.peer, twin.settings = peer, chosen
    return twin


def peer_model(model: "LanguageModel", name: str, **settings: Any) -> "LanguageModel":
    """Make a model that reads with a peer's attention; weights and tokenizer are shared.

    Raises:
        ValueError: If there is no such attention, or it has no such setting.
    """
    twin = copy.copy(model)
    twin.decoder = read_with(model.decoder, name, **settings)
    return twin
