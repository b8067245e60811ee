"""Writing an adapter: PEFT's layout, our settings beside it, and a model card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from safetensors.torch import save_file

from cca_models.adaptation.folded_lora import trained_weights
from cca_models.adaptation.model_card import CARD_FILE, model_card
from cca_models.adapters.adapter_files import WEIGHTS_FILE
from cca_models.adapters.base_weights import weights_sha256
from cca_models.adapters.settings import FORMAT, SETTINGS_FILE
from cca_models.checkpoints import Checkpoint

if TYPE_CHECKING:
    from cca_models.adaptation.recipe import Recipe
    from cca_models.adaptation.trainer import Training


def export_adapter(
    model: PeftModel,
    folder: Path,
    *,
    checkpoint: Checkpoint,
    training: "Training",
    recipe: "Recipe",
    sources: Sequence[str],
    finished: bool,
    steps: int,
    tokens: int,
    begun_from: Mapping[str, str] | None = None,
) -> None:
    """Write what was trained, in float32; `adapter_packing` makes it small.

    Args:
        model: After training.
        folder: Where to; made if need be.
        checkpoint: What was adapted.
        training: How.
        recipe: On what rows.
        sources: Names of what was drawn from.
        finished: Whether all steps were done.
        steps: Done.
        tokens: Read.
        begun_from: Name and weights_sha256 of the adapter that it was begun from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.peft_config["default"].save_pretrained(str(folder))
    save_file(trained_weights(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    longest = max(portion.length for portion in recipe.fitting())
    about: dict[str, Any] = {
        "format": FORMAT,
        "base": {
            "name": checkpoint.name,
            "weights_sha256": weights_sha256(checkpoint.path),
        },
        "attention": training.attention,
        "group_size": training.cca.group_size,
        "window": training.cca.window,
        "rope": {
            "rule": "fixed-base",
            "theta": training.theta,
            "trained_tokens": longest,
            "max_tokens": training.max_tokens,
        },
        # Attention counts like BM25, and nothing is taken off, until measured otherwise.
        "locate": {
            "heads": [list(head) for head in training.heads or ()],
            "subtract_empty": False,
            "attention_weight": 1.0,
        },
        "training": {
            "steps": steps,
            "tokens": tokens,
            "finished": finished,
            "begun_from": begun_from and dict(begun_from),
            "recipe": recipe.facts(),
            "settings": asdict(training),
            "sources": list(sources),
        },
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(about, indent=1) + "\n")
    (folder / CARD_FILE).write_text(model_card(about))
