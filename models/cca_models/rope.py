"""Rotary positions: the checkpoint's own frequencies, and how they stretch past the trained length.

Whatever the model's dtype, angles are computed in float32 within the trained length, step by step
as transformers does, so that the logits agree; stretched ones in float64. In bfloat16 a frequency
is off by more than a turn at position 100,000.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cca_models.errors import ContextTooLongError, UnsupportedModelError

# Longest stretch offered. docs/method.md has the perplexity by position that stands behind it.
MAX_STRETCH = 64
# The base grows by this power of the stretch: with 1, texts of 8 and 16 times the trained length
# lose their last third; measured, in docs/method.md.
_GROWTH = 1.2


def stretch_factor(tokens: int, trained: int) -> int:
    """Choose the stretch for a document: tokens over the trained length, rounded up.

    Raises:
        ContextTooLongError: If the tokens need more than MAX_STRETCH.
    """
    factor = max(1, -(-tokens // trained))
    if factor > MAX_STRETCH:
        limit = MAX_STRETCH * trained
        raise ContextTooLongError(
            f"needs {tokens:,} tokens, the model reaches {limit:,} ({tokens - limit:,} over)"
        )
    return factor


def head_dim(config: Mapping[str, Any]) -> int:
    """Read the head dim of a LLaMA config, D."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the rotary settings: transformers 5 nests them, earlier releases spread them."""
    nested = dict(config.get("rope_parameters") or {})
    older = dict(config.get("rope_scaling") or {})
    merged = {**older, **nested}
    merged.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    merged.setdefault("rope_type", merged.pop("type", "default"))
    return merged


def base_frequencies(config: Mapping[str, Any]) -> Tensor:
    """Compute the checkpoint's own inverse frequencies, float32 [D / 2], as transformers rounds.

    Raises:
        UnsupportedModelError: If the checkpoint uses a rotary type other than default, linear or
            llama3.
    """
    p = _parameters(config)
    D = head_dim(config)
    freq = 1.0 / float(p["rope_theta"]) ** (torch.arange(0, D, 2, dtype=torch.float32) / D)
    kind = p["rope_type"]
    if kind == "default":
        return freq
    if kind == "linear":
        return freq / float(p["factor"])
    if kind == "llama3":
        old = float(p.get("original_max_position_embeddings") or config["max_position_embeddings"])
        low, high = float(p["low_freq_factor"]), float(p["high_freq_factor"])
        smooth = ((old * freq / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
        return freq * (smooth + (1 - smooth) / float(p["factor"]))
    raise UnsupportedModelError(
        f"rotary type {kind!r} is not supported",
        hint="use a checkpoint with default, linear or llama3",
    )


def stretched_frequencies(config: Mapping[str, Any], factor: int) -> Tensor:
    """Stretch the frequencies by a larger base ("NTK-aware" scaling), float64 [D / 2].

    Factor 1 gives the checkpoint's own, in float32. Otherwise the base is multiplied by
    factor ** 1.2 to the power of D / (D - 2): the slowest pair of dimensions turns factor ** 1.2
    times slower, so that it meets no angle that it was not trained on; the fastest pair keeps its
    frequency, and with it what the model knows of neighbouring tokens.
    """
    freq = base_frequencies(config)
    if factor == 1:
        return freq
    slowest = len(freq) - 1
    pair = torch.arange(len(freq), dtype=torch.float64)
    return freq.double() * float(factor) ** (-_GROWTH * pair / slowest)


class Rotary:
    """Cosines and sines of positions for one stretch.

    Args:
        frequencies: Inverse frequencies, [D / 2]; angles are computed in their dtype.
    """

    def __init__(self, frequencies: Tensor) -> None:
        self.frequencies = frequencies

    def tables(
        self, position: int, length: int, *, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Make cosine and sine for consecutive positions, each [length, D] in dtype.

        The second half of the sine table carries the sign of the rotation's other half: both
        halves of a head are turned with one multiply each.
        """
        p = torch.arange(position, position + length, dtype=self.frequencies.dtype)
        angle = p[:, None] * self.frequencies  # [length, D / 2]
        cos, sin = angle.cos(), angle.sin()
        return (
            torch.cat([cos, cos], dim=-1).to(device=device, dtype=dtype),
            torch.cat([-sin, sin], dim=-1).to(device=device, dtype=dtype),
        )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn heads by their positions: x [..., L, D] with tables [L, D] from Rotary.tables."""
    half = x.shape[-1] // 2
    return x * cos + torch.roll(x, half, dims=-1) * sin
