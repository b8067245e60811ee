"""CCA-Attention for transformers models, through the public attention and mask interfaces.

    from cca_models import CCACache, register
    register()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="cca")
    model.generate(**inputs, past_key_values=CCACache(model.config))

Group size and window come from the cache, or, where a forward runs without one (training,
scoring), from `model.config.cca`, a mapping with the fields of CCAConfig; the defaults otherwise.
Nothing of transformers is patched: `register` adds one attention and one mask function by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from cca_kernels import attend, group_anchors, pool_groups
from cca_models.config import CCAConfig

if TYPE_CHECKING:
    from cca_models.cache import CCACacheLayer

NAME = "cca"


class Observer(Protocol):
    """Looks at a layer's attention during a forward without a cache; changes nothing."""

    def see(self, layer: int, q: Tensor, core_k: Tensor, *, scale: float) -> None:
        """Take rotated queries [B, H, L, D] and the core tokens' keys [B, KV, M, D]."""
        ...


@dataclass(frozen=True, slots=True)
class Handle:
    """What the cache layer hands to the attention function in place of keys.

    The layer's update sees keys and values, the attention function alone sees the queries that
    pooling needs: so the new tokens travel on, together with the layer that will keep them.
    """

    layer: "CCACacheLayer"
    k: Tensor
    v: Tensor


@dataclass(frozen=True, slots=True)
class Padding:
    """Padding of a batch: tokens to leave out at the left and at the right end of each row."""

    left: tuple[int, ...]
    right: tuple[int, ...]


def read_padding(mask: Tensor | None) -> Padding | None:
    """Read a 2D mask [B, S], true where a token is real; None if all are.

    A row without a real token (the first chunk of a well padded row) counts as padding at the left.

    Raises:
        ValueError: If a row has padding between real tokens.
    """
    if mask is None:
        return None
    real = mask.bool()
    if bool(real.all()):
        return None
    counts = real.sum(1)
    left = torch.where(counts == 0, real.shape[1], real.int().argmax(1))
    right = real.shape[1] - left - counts
    if not bool((real.flip(1).int().argmax(1) == right).all()):
        raise ValueError("expected padding at the ends of a row only")
    return Padding(tuple(left.tolist()), tuple(right.tolist()))


def cca_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Padding | None:
    """Hand the padding of a batch on to the attention function, which does causality itself.

    Raises:
        ValueError: If the model asks for more than causality and padding (packed sequences, say).
    """
    from transformers.masking_utils import causal_mask_function

    if mask_function is not None and mask_function is not causal_mask_function:
        raise ValueError(
            "CCA-Attention knows causal attention with padding; packed sequences and other masks "
            "are not supported: pass an attention_mask and one sequence a row"
        )
    return read_padding(attention_mask)


def settings_of(config: Any) -> CCAConfig:
    """Read the settings that a model's config carries, the defaults if it has none."""
    carried = getattr(config, "cca", None)
    return CCAConfig(**carried) if carried else CCAConfig()


def cca_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor | Handle,
    value: Tensor,
    attention_mask: Padding | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    observer: Observer | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers asks: query [B, H, L, D] in, output [B, L, H, D] out.

    An `observer` given to the model's forward, where it runs without a cache, sees every layer's
    queries and core tokens.

    Raises:
        ValueError: If the cache is not a CCACache, the mask is a 4D one, or dropout is asked for.
    """
    if attention_mask is not None and not isinstance(attention_mask, Padding):
        raise ValueError("CCA-Attention takes a 2D attention_mask, not a prepared 4D one")
    if dropout:
        raise ValueError("CCA-Attention has no attention dropout; set attention_dropout=0")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.is_autocast_enabled(query.device.type):
        # As torch's own attention does: rotation leaves float32 behind beside 16-bit values.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, value = query.to(dtype), value.to(dtype)
        if isinstance(key, Handle):
            key = Handle(key.layer, key.k.to(dtype), key.v.to(dtype))
        else:
            key = key.to(dtype)
    if isinstance(key, Handle):
        o = key.layer.attend(query, key.k, key.v, padding=attention_mask, scale=scale)
    elif key.shape[2] != query.shape[2]:
        raise ValueError(
            "CCA-Attention goes on from its own cache only: past_key_values=CCACache(model.config)"
        )
    else:
        o = attend_afresh(
            query, key, value,
            config=settings_of(module.config), padding=attention_mask, scale=scale,
            watch=None if observer is None else partial(observer.see, cast(int, module.layer_idx)),
        )  # fmt: skip
    return o.transpose(1, 2), None


def attend_afresh(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    config: CCAConfig,
    padding: Padding | None,
    scale: float,
    watch: Callable[..., None] | None = None,
) -> Tensor:
    """Attend over whole sequences without a cache; differentiable. Shapes [B, H | KV, L, D].

    Rows without padding at the left can be watched: see Observer.
    """
    if padding is None or not any(padding.left):
        # Tokens behind a row's end disturb nobody before them: causality keeps them apart.
        return _attend_rows(q, k, v, config=config, scale=scale, watch=watch)
    L = q.shape[2]
    rows = []
    for row, left in enumerate(padding.left):
        part = slice(row, row + 1)
        o = _attend_rows(
            q[part, :, left:], k[part, :, left:], v[part, :, left:], config=config, scale=scale
        )
        rows.append(torch.nn.functional.pad(o, (0, 0, L - o.shape[2], 0)))
    return torch.cat(rows)


def _attend_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    config: CCAConfig,
    scale: float,
    watch: Callable[..., None] | None = None,
) -> Tensor:
    """Attend over rows that all begin at position 0."""
    G, L = config.group_size, q.shape[2]
    M = config.visible_cores(L - 1)
    if M:
        anchor = group_anchors(q[:, :, G - 1 : M * G : G], kv_heads=k.shape[1])
        core_k, core_v = pool_groups(
            k[:, :, : M * G], v[:, :, : M * G], anchor, group_size=G, scale=scale
        )
    else:
        core_k, core_v = k[:, :, :0], v[:, :, :0]
    if watch is not None:
        watch(q, core_k, scale=scale)
    o, _ = attend(
        q, k, v, core_k, core_v,
        position=0, group_size=G, window=config.window, scale=scale,
    )  # fmt: skip
    return o


def register() -> None:
    """Make attn_implementation="cca" known to transformers. May be called again."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, cca_attention)
    AttentionMaskInterface.register(NAME, cca_mask)
