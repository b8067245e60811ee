"""Peers behind transformers' hooks: a cache whose layers remember as a peer does.

    register()  # of cca_models
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="cca")
    model.generate(**inputs, past_key_values=peer_cache(model, "streaming-llm"))

Padding is split off as for CCA: rows that begin at other positions have memories of their own.
"""

from functools import partial
from typing import Any, cast

from transformers.cache_utils import Cache

from cca_models.cache import CCACacheLayer, RowLayer
from cca_models.peers.records import Place, record


def peer_cache(model: Any, name: str, **settings: Any) -> Cache:
    """Make a cache for past_key_values.

    Args:
        model: A transformers LLaMA with attn_implementation="cca".
        name: Of the attention.
        settings: What differs from its authors' defaults.

    Raises:
        ValueError: If there is no such attention, or it has no such setting.
    """
    config, peer = model.config, record(name)
    heads = int(config.num_attention_heads)
    places = [
        Place(
            layer=i, layers=int(config.num_hidden_layers), heads=heads,
            kv_heads=int(config.num_key_value_heads or heads), head_dim=int(config.head_dim),
            frequencies=model.model.rotary_emb.inv_freq.float().cpu(),
        )
        for i in range(int(config.num_hidden_layers))
    ]  # fmt: skip
    chosen = peer.settled(settings)

    def make(place: Place) -> RowLayer:
        return cast(RowLayer, peer.make(place, **chosen))

    return Cache(layers=[CCACacheLayer(make=partial(make, place)) for place in places])
