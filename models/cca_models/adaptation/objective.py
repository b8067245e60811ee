"""What is minimised: foretelling texts, answers and summaries, and pointing at the answer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cca_models.adaptation.folded_lora import decoder_of
from cca_models.adaptation.pointing import Head, Pointing
from cca_models.adaptation.recipe import Batch
from cca_models.config import CCAConfig

# Tokens whose logits exist at one time: [4096, V] in float32 is 0.8 GB for 49,152 words.
_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Losses:
    """Of one batch.

    Attributes:
        total: What is minimised.
        words: Mean negative log-likelihood of the tokens taught.
        pointing: Of the heads that locate; 0 where nothing was asked.
        pointed: Share of questions whose passage drew more than half of the mass.
    """

    total: Tensor
    words: Tensor
    pointing: Tensor
    pointed: Tensor


class Objective(nn.Module):
    """A model together with its loss, so that wrappers for several devices see one forward.

    Args:
        model: From build_model.
        heads: That shall locate; empty for dense attention.
        group_size: Tokens per core token.
        weight: Of the pointing loss beside the words'.
        recompute_from: Of a batch with so many tokens or more only the layers' inputs are kept,
            and each layer is computed again for its gradient.
    """

    def __init__(
        self,
        model: PeftModel,
        *,
        heads: Sequence[Head],
        group_size: int,
        weight: float,
        recompute_from: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._heads, self._group_size, self._weight = tuple(heads), group_size, weight
        self._recompute_from = recompute_from

    def forward(self, batch: Batch, window: int | None = None) -> Losses:
        """Compute the losses of one batch.

        Args:
            batch: On the model's device.
            window: Raw tokens that every token sees, W; None leaves it as it is.
        """
        decoder = decoder_of(self.model)
        if window is not None:
            # It stays: layers that are computed again in the backward must see the same.
            decoder.config.cca = asdict(CCAConfig(group_size=self._group_size, window=window))
        if self._recompute_from is not None:
            if batch.ids.numel() >= self._recompute_from:
                decoder.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                decoder.gradient_checkpointing_disable()
        pointing = Pointing(self._heads, batch, group_size=self._group_size)
        watching = {"observer": pointing} if self._heads and len(batch.looks) else {}
        state = decoder.model(batch.ids, use_cache=False, **watching)[0]
        known = state.flatten(0, 1)[batch.taught - 1]
        words = self._words(known, batch.ids.flatten()[batch.taught], batch.weights)
        found, pointed = pointing.loss() if watching else (None, None)
        nothing = torch.zeros((), device=words.device)
        if found is None or pointed is None:
            return Losses(words, words.detach(), nothing, nothing)
        total = words + self._weight * found
        return Losses(total, words.detach(), found.detach(), pointed)

    def _words(self, state: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Average the negative log-likelihood, weighted, a chunk of tokens at a time."""
        if not len(labels):
            return state.sum() * 0.0
        parts = [
            checkpoint(self._chunk, *chunk, use_reentrant=False)
            for chunk in zip(
                state.split(_CHUNK), labels.split(_CHUNK), weights.split(_CHUNK), strict=True
            )
        ]
        return torch.stack(parts).sum() / weights.sum()

    def _chunk(self, state: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        logits = decoder_of(self.model).lm_head(state)
        each = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return (each * weights).sum()
