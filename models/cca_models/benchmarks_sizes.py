"""Shapes that need no download, and what a run needs in memory: plain arithmetic, no torch.

The needs decide whether a run is tried at all; what a run held is read off its tensors afterwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cca_models.attention_names import Outline
from cca_models.config import CCAConfig

_LLAMA = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "smollm2-135m": {
        **_LLAMA,
        "num_hidden_layers": 30,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e5,
        "tie_word_embeddings": True,
    },
    "llama2-7b": {
        **_LLAMA,
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
    },
    "llama3-8b": {
        **_LLAMA,
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "tie_word_embeddings": False,
    },
}

# Tokens that the engine and the dense baseline take at a time where they read in chunks.
CCA_CHUNK = 1024
DENSE_CHUNK = 2048
# On a GPU the engine's chunk is what fits here, the raw tokens on their way included.
_CUDA_STATES = 3 << 29
# Tokens that a peer which forgets keeps at most, and queries that it scores at a time.
_PEER_KEPT, _PEER_BLOCK = 8192, 128
# The interpreter with its libraries on a CPU; workspaces of the matrix products on a GPU.
_FIXED = {"cpu": 768 << 20, "cuda": 512 << 20}


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """Bytes that a run is expected to need at its peak.

    Attributes:
        weights: The weights.
        kv: Keys and values.
        total: All of it, activations and a margin included.
    """

    weights: int
    kv: int
    total: int


def shape_config(name: str, *, tokens: int) -> dict[str, Any]:
    """Give the config of a shape, its trained length raised so that no length needs a stretch."""
    config = dict(SHAPES[name])
    while config["max_position_embeddings"] < tokens:
        config["max_position_embeddings"] *= 2
    return config


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Give name and shape of every tensor of a LLaMA checkpoint without biases."""
    E, inner, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    D = head_dim(config)
    q, kv = config["num_attention_heads"] * D, kv_heads(config) * D
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, E)}
    for i in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (E,),
            f"{prefix}self_attn.q_proj.weight": (q, E),
            f"{prefix}self_attn.k_proj.weight": (kv, E),
            f"{prefix}self_attn.v_proj.weight": (kv, E),
            f"{prefix}self_attn.o_proj.weight": (E, q),
            f"{prefix}post_attention_layernorm.weight": (E,),
            f"{prefix}mlp.gate_proj.weight": (inner, E),
            f"{prefix}mlp.up_proj.weight": (inner, E),
            f"{prefix}mlp.down_proj.weight": (E, inner),
        }
    shapes["model.norm.weight"] = (E,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (V, E)
    return shapes


def head_dim(config: Mapping[str, Any]) -> int:
    """Read the head dim, D."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def kv_heads(config: Mapping[str, Any]) -> int:
    """Read the number of KV heads, KV."""
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def _weight_bytes(config: Mapping[str, Any], itemsize: int) -> int:
    total = 0
    for shape in tensor_shapes(config).values():
        count = 1
        for side in shape:
            count *= side
        total += count
    return total * itemsize


def _sum_up(weights: int, kv: int, work: int, device: str) -> Needs:
    total = weights + kv + work + _FIXED["cuda" if device.startswith("cuda") else "cpu"]
    return Needs(weights=weights, kv=kv, total=int(1.05 * total))


def _activation_bytes(config: Mapping[str, Any], tokens: int, itemsize: int) -> int:
    """Bytes of one layer's states: three of the MLP's inner size, a few of the hidden size."""
    return (
        tokens * itemsize * (3 * int(config["intermediate_size"]) + 5 * int(config["hidden_size"]))
    )


def kv_bytes_per_token(config: Mapping[str, Any], itemsize: int) -> int:
    """Bytes of keys and values of one slot in all layers."""
    return 2 * int(config["num_hidden_layers"]) * kv_heads(config) * head_dim(config) * itemsize


def dense_needs(
    config: Mapping[str, Any], *, length: int, new_tokens: int, itemsize: int, device: str,
    one_shot: bool, batch: int = 1,
) -> Needs:  # fmt: skip
    """Add up what standard attention needs, read in one shot or in chunks, `batch` rows at once.

    The cache grows by concatenation, so keys and values of one layer exist twice for a moment. A
    chunk needs a mask, and with it the heads' keys and values are repeated for every query head.
    """
    per_token = batch * kv_bytes_per_token(config, itemsize)
    kv = per_token * (length + new_tokens)
    layer = kv // config["num_hidden_layers"]
    if one_shot or length <= DENSE_CHUNK:
        work = layer + _activation_bytes(config, batch * length, itemsize)
    else:
        repeat = config["num_attention_heads"] // kv_heads(config)
        mask = DENSE_CHUNK * length * (1 + itemsize)
        work = layer * (1 + (repeat if repeat > 1 else 0)) + mask
        work += _activation_bytes(config, batch * DENSE_CHUNK, itemsize)
    return _sum_up(_weight_bytes(config, itemsize), kv, work, device)


def cca_needs(
    config: Mapping[str, Any], *, length: int, new_tokens: int, itemsize: int, device: str,
    cca: CCAConfig, batch: int = 1,
) -> Needs:  # fmt: skip
    """Add up what the engine needs: core tokens, the raw tail, one chunk's states."""
    per_token = batch * kv_bytes_per_token(config, itemsize)
    slots = -(-(length + new_tokens) // cca.group_size) + cca.window + cca.group_size
    kv = per_token * slots
    chunk = min(length, CCA_CHUNK)
    keys = slots * per_token // config["num_hidden_layers"]
    work = _activation_bytes(config, batch * chunk, itemsize) + 2 * keys
    if device.startswith("cuda"):
        work = max(_CUDA_STATES, work) + 2 * keys
    else:
        # Raw buffers have room for a chunk more than the window while they are being read into.
        work += chunk * per_token
    return _sum_up(_weight_bytes(config, itemsize), kv, work, device)


def peer_needs(
    config: Mapping[str, Any], *, length: int, new_tokens: int, itemsize: int, device: str,
    peer: Outline, batch: int = 1,
) -> Needs:  # fmt: skip
    """Add up what a peer needs: its keys and values, one piece's states, a block of scores."""
    per_token = batch * kv_bytes_per_token(config, itemsize)
    kept = length if peer.kv_kept == "all" else min(length, _PEER_KEPT)
    # One layer's buffers exist twice while they grow.
    kv = per_token * (kept + new_tokens)
    piece = length if peer.whole_prompt else min(length, CCA_CHUNK)
    work = per_token * max(kept, piece) // int(config["num_hidden_layers"])
    states = _activation_bytes(config, batch * piece, itemsize)
    if device.startswith("cuda") and not peer.whole_prompt:
        states = max(_CUDA_STATES, states)
    work += (
        states + 4 * batch * int(config["num_attention_heads"]) * min(length, _PEER_BLOCK) * length
    )
    return _sum_up(_weight_bytes(config, itemsize), kv, work, device)
