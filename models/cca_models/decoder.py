"""A LLaMA decoder for inference, with CCA memories instead of a KV cache.

It runs the checkpoint's weights as they lie in the file (memory-mapped where dtype and device
allow) and needs nothing but torch, so that a command starts in the time that torch takes: importing
transformers' modelling code costs several seconds more. The hook for transformers models is
cca_models.attention; tests hold the two equal.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_kernels.devices import has_kernels
from cca_models.config import CCAConfig
from cca_models.errors import CheckpointError, UnsupportedModelError
from cca_models.layer_memory import Layer, LayerMemory, Probe
from cca_models.rope import Rotary, base_frequencies, head_dim, rotate

if TYPE_CHECKING:
    from cca_models.decode_graph import Stepper

# Rows that keep the linear layers busy while the chunk's states still fit the caches of a CPU.
CHUNK = 1024


class Decoder:
    """The layers of a LLaMA checkpoint.

    Args:
        config: The checkpoint's config.json.
        weights: Its tensors by their names, all in one dtype on one device.

    Raises:
        UnsupportedModelError: If the config asks for something other than LLaMA's layers.
        CheckpointError: If a tensor is missing or has the wrong shape.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        if config.get("hidden_act", "silu") != "silu":
            raise UnsupportedModelError(f"activation {config['hidden_act']!r} is not supported")
        # Rotary types that nobody knows are refused now, not when the document has been read.
        base_frequencies(config)
        self.num_layers = int(config["num_hidden_layers"])
        self.heads = int(config["num_attention_heads"])
        self.kv_heads = int(config.get("num_key_value_heads") or self.heads)
        self.head_dim = head_dim(config)
        self.hidden = int(config["hidden_size"])
        self.eps = float(config.get("rms_norm_eps", 1e-6))
        self.scale = self.head_dim**-0.5
        self._weights = weights
        self._layers = [self._layer(i, config) for i in range(self.num_layers)]
        self.embedding = self._take("model.embed_tokens.weight", None, self.hidden)
        self._norm = self._take("model.norm.weight", self.hidden)
        tied = config.get("tie_word_embeddings", False) or "lm_head.weight" not in weights
        self._head = self.embedding if tied else self._take("lm_head.weight", None, self.hidden)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it computes in."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.embedding.device

    @property
    def layer_parameters(self) -> int:
        """Weights that every token passes through, embeddings left out."""
        return sum(t.numel() for layer in self._layers for t in layer.values())

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The checkpoint's tensors by their names; views, where some were merged into one."""
        return self._weights

    @property
    def chunk(self) -> int:
        """Tokens to read at a time."""
        return CHUNK

    def new_layer_memory(self, config: CCAConfig, *, capacity: int) -> Layer:
        """Make an empty memory of a layer, with room for so many tokens if that is known."""
        return LayerMemory(config, capacity=capacity)

    def new_layer_memories(
        self, config: CCAConfig, *, capacity: int, rotary: Rotary
    ) -> Sequence[Layer]:
        """Make an empty memory for every layer; what it reads is rotated by `rotary`."""
        return [self.new_layer_memory(config, capacity=capacity) for _ in range(self.num_layers)]

    def stepper(self, config: CCAConfig) -> "Stepper | None":
        """Give what reads token after token faster than `forward`, if there is such a thing."""
        return None

    def forward(
        self,
        ids: Tensor,
        memories: Sequence[Layer],
        rotary: Rotary,
        *,
        probes: Mapping[int, Probe] | None = None,
        every: bool = False,
        last_layer: int | None = None,
    ) -> Tensor:
        """Read tokens into the memories.

        Args:
            ids: Token ids, [B, L].
            memories: One memory a layer; all have seen the same tokens.
            rotary: The rotary positions that the memories were read with.
            probes: What to call, by layer number, with what that layer's queries looked at.
            every: Return the states of all tokens rather than of the last one.
            last_layer: Stop after this layer: for probing, when no logits are wanted. The
                memories of later layers stay as they are, so throw such a fork away.

        Returns:
            Final hidden states, [B, 1, hidden], or [B, L, hidden] if every.
        """
        B, L = ids.shape
        cos, sin = rotary.tables(memories[0].seen, L, dtype=self.dtype, device=self.device)
        x = F.embedding(ids, self.embedding)
        end = self.num_layers if last_layer is None else last_layer + 1
        for i in range(end):
            layer = self._layers[i]
            h = F.rms_norm(x, (self.hidden,), layer["input_layernorm.weight"], self.eps)
            q = self._heads(h, layer, "q_proj", self.heads)
            k = self._heads(h, layer, "k_proj", self.kv_heads)
            v = self._heads(h, layer, "v_proj", self.kv_heads)
            probe = probes.get(i) if probes else None
            # Nobody but a probe reads what the last layer makes of the other tokens.
            last_only = i + 1 == self.num_layers and not every and probe is None
            o = memories[i].attend(
                rotate(q, cos, sin), rotate(k, cos, sin), v,
                scale=self.scale, last_only=last_only, probe=probe,
            )  # fmt: skip
            if last_only:
                x = x[:, -1:]
            o = o.transpose(1, 2).reshape(B, -1, self.heads * self.head_dim)
            x = x + self._linear(o, layer, "self_attn.o_proj")
            h = F.rms_norm(x, (self.hidden,), layer["post_attention_layernorm.weight"], self.eps)
            gate = F.silu(self._linear(h, layer, "mlp.gate_proj"), inplace=True)
            gate = gate.mul_(self._linear(h, layer, "mlp.up_proj"))
            x = x + self._linear(gate, layer, "mlp.down_proj")
        if not every:
            x = x[:, -1:]
        return F.rms_norm(x, (self.hidden,), self._norm, self.eps)

    def logits(self, states: Tensor) -> Tensor:
        """Turn final states [B, L, hidden] into logits [B, L, V], in float32."""
        return F.linear(states, self._head).float()

    def _heads(self, h: Tensor, layer: Mapping[str, Tensor], name: str, heads: int) -> Tensor:
        """Project and split into heads, [B, L, hidden] -> [B, heads, L, D]."""
        projected = self._linear(h, layer, f"self_attn.{name}")
        split: Tensor = projected.unflatten(-1, (heads, self.head_dim))
        return split.transpose(1, 2)

    @staticmethod
    def _linear(x: Tensor, layer: Mapping[str, Tensor], name: str) -> Tensor:
        return F.linear(x, layer[f"{name}.weight"], layer.get(f"{name}.bias"))

    def _layer(self, i: int, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Collect the tensors of one layer under their short names."""
        E, inner = self.hidden, int(config["intermediate_size"])
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {
            "self_attn.q_proj": (q, E),
            "self_attn.k_proj": (kv, E),
            "self_attn.v_proj": (kv, E),
            "self_attn.o_proj": (E, q),
            "mlp.gate_proj": (inner, E),
            "mlp.up_proj": (inner, E),
            "mlp.down_proj": (E, inner),
        }
        prefix = f"model.layers.{i}."
        layer = {f"{n}.weight": self._take(f"{prefix}{n}.weight", *s) for n, s in shapes.items()}
        for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            layer[norm] = self._take(prefix + norm, E)
        for name, (out, _) in shapes.items():
            if f"{prefix}{name}.bias" in self._weights:
                layer[f"{name}.bias"] = self._take(f"{prefix}{name}.bias", out)
        return layer

    def _take(self, name: str, *shape: int | None) -> Tensor:
        """Take a tensor, checked against the shape that the config promises."""
        if name not in self._weights:
            raise CheckpointError(f"tensor {name} is missing from the checkpoint")
        tensor = self._weights[name]
        fits = len(shape) == tensor.dim() and all(
            s is None or s == t for s, t in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise CheckpointError(
                f"tensor {name} has shape {tuple(tensor.shape)}, the config says {shape}"
            )
        return tensor


def make_decoder(config: Mapping[str, Any], weights: MutableMapping[str, Tensor]) -> Decoder:
    """Make the fastest decoder for the device that the weights lie on.

    Args:
        config: The checkpoint's config.json.
        weights: Its tensors. Those that a decoder merges are replaced by views into the merged
            ones, so that the mapping stays good and nothing is held twice.

    Raises:
        UnsupportedModelError: If the config asks for something other than LLaMA's layers.
        CheckpointError: If a tensor is missing or has the wrong shape.
    """
    if weights and has_kernels(next(iter(weights.values())).device):
        from cca_models.fused_decoder import FusedDecoder

        return FusedDecoder(config, weights)
    return Decoder(config, weights)
