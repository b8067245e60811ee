"""Rotary positions: the rules that give a memory its frequencies, and the tables made from them.

A checkpoint as published stretches its own frequencies with the document's length (LargerBase); an
adapted one was trained with one base for all lengths (FixedBase), so that its memories can grow.

Whatever the model's dtype, angles of the checkpoint's own frequencies are computed in float32, step
by step as transformers does, so that the logits agree; all others in float64. In bfloat16 a
frequency is off by more than a turn at position 100,000.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cca_models.adapters.adapter_files import trained_settings
from cca_models.errors import ContextTooLongError, UnsupportedModelError

if TYPE_CHECKING:
    from cca_models.checkpoints import Checkpoint

# Longest stretch offered. docs/method.md has the perplexity by position that stands behind it.
MAX_STRETCH = 64
# The base grows by this power of the stretch: with 1, texts of 8 and 16 times the trained length
# lose their last third; measured, in docs/method.md.
_GROWTH = 1.2
# Names of the rules, in adapters' settings and in fingerprints: a rule that changes needs another.
LARGER_BASE = "larger-base-1"
FIXED_BASE = "fixed-base"


def stretch_factor(tokens: int, trained: int) -> int:
    """Choose the stretch for a document: tokens over the trained length, rounded up.

    Raises:
        ContextTooLongError: If the tokens need more than MAX_STRETCH.
    """
    factor = max(1, -(-tokens // trained))
    if factor > MAX_STRETCH:
        raise _too_long(tokens, MAX_STRETCH * trained)
    return factor


def _too_long(tokens: int, limit: int) -> ContextTooLongError:
    return ContextTooLongError(
        f"needs {tokens:,} tokens, the model reaches {limit:,} ({tokens - limit:,} over)"
    )


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


class RopeRule(Protocol):
    """How positions are chosen for a memory that must hold so many tokens."""

    @property
    def facts(self) -> Mapping[str, str | float]:
        """What makes other keys where it differs; part of fingerprints."""

    @property
    def max_tokens(self) -> int:
        """Most tokens that a memory may hold."""

    def stretch(self, tokens: int) -> int:
        """Choose the stretch; 1 for none.

        Raises:
            ContextTooLongError: If the tokens need more than the rule can reach.
        """

    def capacity(self, tokens: int) -> int:
        """Give the tokens that a memory made for so many may hold in the end.

        Raises:
            ContextTooLongError: If the tokens need more than the rule can reach.
        """

    def frequencies(self, tokens: int) -> Tensor:
        """Give the inverse frequencies, [D / 2]; angles are computed in their dtype.

        Raises:
            ContextTooLongError: If the tokens need more than the rule can reach.
        """

    def dense_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Give the config with which transformers' own model has these positions, unstretched."""


@dataclass(frozen=True, slots=True)
class LargerBase:
    """The checkpoint's own frequencies, their base larger the longer the document is.

    Attributes:
        config: The checkpoint's config.json.
    """

    config: Mapping[str, Any]

    @property
    def facts(self) -> Mapping[str, str | float]:
        """What makes other keys where it differs: old memories must miss."""
        return {"rope_rule": LARGER_BASE}

    @property
    def max_tokens(self) -> int:
        """The trained length at the longest stretch."""
        return self._trained * MAX_STRETCH

    @property
    def _trained(self) -> int:
        return int(self.config["max_position_embeddings"])

    def stretch(self, tokens: int) -> int:
        """Choose the stretch, see stretch_factor."""
        return stretch_factor(tokens, self._trained)

    def capacity(self, tokens: int) -> int:
        """Give what the stretch reaches."""
        return self.stretch(tokens) * self._trained

    def frequencies(self, tokens: int) -> Tensor:
        """Give the inverse frequencies, see stretched_frequencies."""
        return stretched_frequencies(self.config, self.stretch(tokens))

    def dense_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Give the checkpoint's own: dense attention is compared with as it was published."""
        return dict(config)


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedBase:
    """One base for all lengths, the one that an adapter was trained with.

    Attributes:
        theta: The base.
        dims: Head dim, D.
        max_tokens: Most tokens that a memory may hold.
    """

    theta: float
    dims: int
    max_tokens: int

    @property
    def facts(self) -> Mapping[str, str | float]:
        """What makes other keys where it differs; the most tokens do not."""
        return {"rope_rule": FIXED_BASE, "rope_theta": self.theta}

    def stretch(self, tokens: int) -> int:
        """Give 1: nothing depends on the length."""
        if tokens > self.max_tokens:
            raise _too_long(tokens, self.max_tokens)
        return 1

    def capacity(self, tokens: int) -> int:
        """Give the most tokens: a memory may grow up to there."""
        return self.stretch(tokens) * self.max_tokens

    def frequencies(self, tokens: int) -> Tensor:
        """Give theta ** (-2 i / D), float64 [D / 2]."""
        self.stretch(tokens)
        pair = torch.arange(0, self.dims, 2, dtype=torch.float64)
        return float(self.theta) ** (-pair / self.dims)

    def dense_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Put the base into a copy of the config, in every place where transformers looks."""
        plain = {"rope_type": "default", "rope_theta": self.theta}
        changes = {"rope_theta": self.theta, "rope_scaling": None, "rope_parameters": plain}
        return {**config, **changes, "max_position_embeddings": self.max_tokens}


def rope_rule(checkpoint: "Checkpoint") -> RopeRule:
    """Give the rule of a checkpoint: its adapter's, or the stretch of the checkpoint's own."""
    settings = trained_settings(checkpoint.adapter)
    if settings is None or settings.rope.rule == LARGER_BASE:
        return LargerBase(checkpoint.config)
    rope = settings.rope
    return FixedBase(theta=rope.theta, dims=head_dim(checkpoint.config), max_tokens=rope.max_tokens)


class Rotary:
    """Cosines and sines of positions for one memory.

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
