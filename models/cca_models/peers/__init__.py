"""The attentions that CCA is compared with: each a memory of a layer, behind the engine's own hook.

`records()` says what each is, needs and keeps; `peer_model` makes a loaded model read with one. All
run with the same weights, tokenizer and positions. Every one is held against an oracle, a plain
float64 definition in its own file. Sources and defaults: docs/peers.md.
"""

from cca_models.peers.decoder import PeerDecoder, peer_model, read_with
from cca_models.peers.records import AttentionRecord, Place, record, records

__all__ = [
    "AttentionRecord",
    "PeerDecoder",
    "Place",
    "peer_model",
    "read_with",
    "record",
    "records",
]
