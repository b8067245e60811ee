"""Saying "not found": an adapted checkpoint's own word for it, at a measured threshold.

Adapted checkpoints were taught to write NOT_FOUND where a text does not say. How sure they must be
before that stands is measured on questions with and without an answer; otherwise a model that is
merely unsure would refuse what it could have answered.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cca_models.adapters.adapter_files import trained_settings
from cca_models.reading.types import NOT_FOUND, ReadMode

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel


def threshold_of(model: "LanguageModel", read: ReadMode) -> float | None:
    """Give the probability of "not found" from which it stands; None if none was measured."""
    settings = trained_settings(model.checkpoint.adapter)
    value = settings.not_found.get("core" if read == "core" else "focus") if settings else None
    return float(value) if isinstance(value, int | float) else None


def opening(model: "LanguageModel", read: ReadMode) -> Callable[[Tensor], Tensor] | None:
    """Make what decides at an answer's first token whether it is a refusal.

    The result takes logits [V] and gives logits: those of a refusal alone, or none of it.
    """
    threshold = threshold_of(model, read)
    if threshold is None:
        return None
    token = refusal_token(model)

    def decide(logits: Tensor) -> Tensor:
        refused = refusal_share(logits, token) >= threshold
        if refused and int(logits.argmax()) == token:
            return logits
        decided = torch.full_like(logits, float("-inf")) if refused else logits.clone()
        decided[token] = logits[token] if refused else float("-inf")
        return decided

    return decide


def refusal_share(logits: Tensor, token: int) -> float:
    """Give the probability that an answer with these first logits, [V], begins as a refusal.

    Args:
        logits: Of the answer's first token.
        token: From `refusal_token`.
    """
    return float(torch.softmax(logits.float(), dim=-1)[token])


def refusal_token(model: "LanguageModel") -> int:
    """Give the token that a refusal begins with."""
    return model.tokenizer.encode(f" {NOT_FOUND}")[0]
