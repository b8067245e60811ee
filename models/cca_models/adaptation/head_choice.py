"""Which heads locate: those whose attention goes from questions to the passages that answer.

Query-focused retrieval heads (QRHead, EMNLP 2025), measured on training questions: every head's
mass on the core tokens of the gold passage, averaged over the questions of some batches.
"""

from collections.abc import Iterable

import torch
from peft import PeftModel

from cca_models.adaptation.folded_lora import decoder_of
from cca_models.adaptation.pointing import Head, Pointing
from cca_models.adaptation.recipe import Batch


@torch.no_grad()
def measure_heads(
    model: PeftModel, batches: Iterable[Batch], *, group_size: int
) -> dict[Head, float]:
    """Give each head's mean mass on the gold passages, best first.

    Args:
        model: From build_model, with CCA-Attention.
        batches: Those without located questions say nothing and are passed over.
        group_size: Tokens per core token.

    Raises:
        ValueError: If no batch has a located question.
    """
    decoder = decoder_of(model)
    config = decoder.config
    heads = [
        (layer, head)
        for layer in range(config.num_hidden_layers)
        for head in range(config.num_attention_heads)
    ]
    sums = dict.fromkeys(heads, 0.0)
    questions = 0.0
    for batch in batches:
        if not len(batch.looks):
            continue
        moved = batch.to(next(model.parameters()).device)
        pointing = Pointing(heads, moved, group_size=group_size)
        decoder.model(moved.ids, use_cache=False, observer=pointing)
        for head, mass in pointing.masses().items():
            sums[head] += float(mass.sum())
        questions += pointing.located()
    if not questions:
        raise ValueError("expected batches with questions whose passage is known")
    found = sorted(sums.items(), key=lambda item: -item[1])
    return {head: total / questions for head, total in found}
