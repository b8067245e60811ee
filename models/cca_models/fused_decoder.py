"""The decoder on fused kernels: few passes over the states, few launches, memories at fixed places.

What it computes is Decoder's; how differs in four ways. Projections that read the same states are
one matrix product, their weights merged once when the model is loaded: every tensor is replaced by
a view into the merged one, so that nothing lies there twice. The residual stream is added to inside
the products and kept in place. Rotary, norm and SwiGLU are one pass each, and the rotary pass
writes keys and values straight into the memory. Buffers are those of one chunk, made once per call:
what a text of a million tokens needs beside its memory does not depend on its length.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_kernels.rms_norm import rms_norm_fwd
from cca_kernels.rotary import rotary_fwd
from cca_kernels.swiglu import swiglu_fwd
from cca_models.config import CCAConfig
from cca_models.decoder import Decoder
from cca_models.layer_memory import Layer, Probe
from cca_models.rope import Rotary
from cca_models.static_memory import StaticLayerMemory
from cca_models.weights import on_own_device

if TYPE_CHECKING:
    from cca_models.decode_graph import Stepper

# Projections of the same states, in the order of their rows.
_MERGED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
# Bytes that the states of one chunk may take, and the most tokens that still gain speed.
_CHUNK_BYTES = 5 << 28
_LONGEST_CHUNK = 16384
# The kernels of a step find rows of heads in units of so many bytes.
_UNIT = 16
# Up to this many rows the head is a kernel that keeps its float32 sums.
_FEW_ROWS = 4


class FusedDecoder(Decoder):
    """Decoder for devices that run Triton kernels.

    Args:
        config: The checkpoint's config.json.
        weights: Its tensors; merged ones take their places.
    """

    def __init__(self, config: Mapping[str, Any], weights: MutableMapping[str, Tensor]) -> None:
        self._mutable = weights
        super().__init__(config, weights)
        self.inner = int(config["intermediate_size"])
        self._frequencies: tuple[Tensor, Tensor] | None = None
        self._steppers: dict[CCAConfig, Stepper] = {}

    @property
    def chunk(self) -> int:
        """Tokens to read at a time: a power of two, so that the states fit their budget."""
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        # In, norm, attention in and out; merged projections; the raw tokens on their way.
        width = 2 * self.hidden + 2 * self.heads * self.head_dim + qkv + 3 * self.inner
        width += 2 * self.kv_heads * self.head_dim
        tokens = _CHUNK_BYTES // (width * self.dtype.itemsize)
        return max(1024, min(_LONGEST_CHUNK, 1 << (tokens.bit_length() - 1)))

    @property
    def vocabulary(self) -> int:
        """Tokens that the head tells apart, V."""
        return self._head.shape[0]

    @property
    def head(self) -> Tensor:
        """The weights of the head, [V, hidden]."""
        return self._head

    @property
    def final_norm(self) -> Tensor:
        """The weights of the norm before the head."""
        return self._norm

    def layer(self, i: int) -> dict[str, Tensor]:
        """Give the tensors of a layer, merged ones under their merged names."""
        return self._layers[i]

    def new_layer_memory(self, config: CCAConfig, *, capacity: int) -> Layer:
        """Make an empty memory of a layer."""
        return StaticLayerMemory(config, capacity=capacity)

    def stepper(self, config: CCAConfig) -> "Stepper | None":
        """Give what reads token after token; made once, and with it the captured graph."""
        if self.head_dim * self.dtype.itemsize % _UNIT:
            return None
        if config not in self._steppers:
            from cca_models.decode_graph import Stepper

            # Programmatic dependent launch came with Hopper.
            capability = torch.cuda.get_device_capability if self.device.type == "cuda" else None
            pdl = capability is not None and capability(self.device)[0] >= 9
            self._steppers[config] = Stepper(self, config, pdl=pdl)
        return self._steppers[config]

    @on_own_device
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
        """Read tokens into the memories; as Decoder.forward."""
        B, L = ids.shape
        H, KV, D = self.heads, self.kv_heads, self.head_dim
        cos, sin = self._tables(rotary, memories[0].seen, L)
        x = F.embedding(ids, self.embedding).view(B * L, self.hidden)
        h = torch.empty_like(x)
        qkv = x.new_empty(B * L, (H + 2 * KV) * D)
        spare = x.new_empty(B, H, L, D)
        shape = spare[:, :KV]
        gate_up, act = x.new_empty(B * L, 2 * self.inner), x.new_empty(B * L, self.inner)
        for i in range(self.num_layers if last_layer is None else last_layer + 1):
            layer, memory = self._layers[i], memories[i]
            probe = probes.get(i) if probes else None
            # What a probe has seen may be kept: no other layer writes there.
            q = torch.empty_like(spare) if probe is not None else spare
            rms_norm_fwd(x, layer["input_layernorm.weight"], eps=self.eps, out=h)
            _project(h, layer, "self_attn.qkv_proj", out=qkv)
            # Nobody but a probe reads what the last layer makes of the other tokens.
            last_only = i + 1 == self.num_layers and not every and probe is None
            if isinstance(memory, StaticLayerMemory):
                raw = memory.append(shape)
                rotary_fwd(qkv, cos, sin, q=q, k=raw.new_k, v=raw.new_v)
                o = memory.look(raw, q, scale=self.scale, last_only=last_only, probe=probe)
            else:
                # Another attention's memory takes copies.
                k, v = x.new_empty(2, B, KV, L, D).unbind()
                rotary_fwd(qkv, cos, sin, q=q, k=k, v=v)
                o = memory.attend(q, k, v, scale=self.scale, last_only=last_only, probe=probe)
            if last_only:
                x = x.view(B, L, -1)[:, -1].contiguous()
                h, gate_up, act = h[:B], gate_up[:B], act[:B]
            _add_product(x, o.transpose(1, 2).reshape(x.shape[0], H * D), layer, "self_attn.o_proj")
            rms_norm_fwd(x, layer["post_attention_layernorm.weight"], eps=self.eps, out=h)
            _project(h, layer, "mlp.gate_up_proj", out=gate_up)
            _add_product(x, swiglu_fwd(gate_up, out=act), layer, "mlp.down_proj")
        x = x.view(B, -1, self.hidden)
        if not every:
            x = x[:, -1:]
        rows = x.reshape(-1, self.hidden)
        return rms_norm_fwd(rows, self._norm, eps=self.eps).view(B, -1, self.hidden)

    @on_own_device
    def logits(self, states: Tensor) -> Tensor:
        """Turn final states [B, L, hidden] into logits [B, L, V], in float32."""
        B, L, _ = states.shape
        if B * L > _FEW_ROWS:
            return super().logits(states)
        from cca_kernels.gemv import gemv_fwd

        rows = states.reshape(B * L, -1)
        out = rows.new_empty((B * L, self._head.shape[0]), dtype=torch.float32)
        return gemv_fwd(rows, self._head, out=out).view(B, L, -1)

    def _tables(self, rotary: Rotary, position: int, length: int) -> tuple[Tensor, Tensor]:
        """Make the tables of Rotary.tables on the device: the host would be busy for long."""
        if self._frequencies is None or self._frequencies[0] is not rotary.frequencies:
            self._frequencies = rotary.frequencies, rotary.frequencies.to(self.device)
        freq = self._frequencies[1]
        p = torch.arange(position, position + length, dtype=freq.dtype, device=self.device)
        angle = p[:, None] * freq  # [length, D / 2]
        cos, sin = angle.cos(), angle.sin()
        return (
            torch.cat([cos, cos], dim=-1).to(self.dtype),
            torch.cat([-sin, sin], dim=-1).to(self.dtype),
        )

    def _layer(self, i: int, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Collect the tensors of one layer, those that read the same states as one."""
        layer = super()._layer(i, config)
        for merged, names in _MERGED.items():
            rows = [layer[f"{name}.weight"].shape[0] for name in names]
            for kind in ("weight", "bias"):
                parts = [layer.pop(f"{name}.{kind}", None) for name in names]
                there = next((t for t in parts if t is not None), None)
                if there is None:
                    continue
                # Where some have a bias, the others add nothing.
                tensors = [
                    there.new_zeros(n) if t is None else t for t, n in zip(parts, rows, strict=True)
                ]
                layer[f"{merged}.{kind}"] = whole = torch.cat(tensors)
                for name, part, view in zip(names, parts, whole.split(rows), strict=True):
                    if part is not None:
                        self._mutable[f"model.layers.{i}.{name}.{kind}"] = view
        return layer


def _project(x: Tensor, layer: Mapping[str, Tensor], name: str, *, out: Tensor) -> None:
    """Multiply into a buffer."""
    weight, bias = layer[f"{name}.weight"].t(), layer.get(f"{name}.bias")
    if bias is None:
        torch.mm(x, weight, out=out)
    else:
        torch.addmm(bias, x, weight, out=out)


def _add_product(x: Tensor, y: Tensor, layer: Mapping[str, Tensor], name: str) -> None:
    """Add a product to the residual stream, in place."""
    bias = layer.get(f"{name}.bias")
    if bias is not None:
        x.add_(bias)
    torch.addmm(x, y, layer[f"{name}.weight"].t(), out=x)
