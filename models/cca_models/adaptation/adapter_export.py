"""Writing an adapter: PEFT's layout, our settings beside it, and a model card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from cca_models.adaptation.folded_lora import trained_weights
from cca_models.adaptation.sources import SOURCES
from cca_models.adapters.adapter_files import WEIGHTS_FILE
from cca_models.adapters.base_weights import weights_sha256
from cca_models.adapters.lora_config import CONFIG_FILE
from cca_models.adapters.settings import FORMAT, SETTINGS_FILE
from cca_models.checkpoints import Checkpoint

if TYPE_CHECKING:
    from cca_models.adaptation.recipe import Recipe
    from cca_models.adaptation.trainer import Training

_CARD = "README.md"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


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
    """Write what was trained, in float32; `pack_adapter` makes it small.

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
    (folder / _CARD).write_text(model_card(about))


def pack_adapter(source: Path, target: Path, *, dtype: str) -> int:
    """Copy an adapter in a smaller type; gives the bytes of its weights.

    In float8 (e4m3) every row of a matrix keeps three bits behind its leading one; PEFT reads it
    as it reads any other type. Small values would fall below its range, so each pair A, B is
    brought to equal size first: the product stays as it was.

    Raises:
        OSError: If a file is missing or cannot be written.
    """
    from safetensors.torch import load_file

    weights = load_file(source / WEIGHTS_FILE)
    target.mkdir(parents=True, exist_ok=True)
    kind = DTYPES[dtype]
    packed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(".lora_A.weight"):
            a, b = tensor.float(), weights[name.replace(".lora_A.", ".lora_B.")].float()
            # One number a rank: how far row i of A and column i of B are from each other.
            scale = (b.norm(dim=0) / a.norm(dim=1).clamp(min=1e-12)).clamp(min=1e-12).sqrt()
            a, b = a * scale[:, None], b / scale
            packed[name] = a.to(kind)
            packed[name.replace(".lora_A.", ".lora_B.")] = b.to(kind)
        elif not name.endswith(".lora_B.weight"):
            packed[name] = tensor.to(torch.bfloat16 if dtype == "fp8" else kind)
    file = target / WEIGHTS_FILE
    save_file(packed, file, metadata={"format": "pt"})
    for name in (CONFIG_FILE, SETTINGS_FILE, _CARD):
        (target / name).write_bytes((source / name).read_bytes())
    return file.stat().st_size


def model_card(about: dict[str, Any]) -> str:
    """Write the card of an adapter from what its cca.json says."""
    training, rope = about["training"], about["rope"]
    used = [s for s in SOURCES if s.name in training["sources"]]
    left_out = set(training["recipe"]["without"])
    lines = [
        f"# Adapter for {about['base']['name']}",
        "",
        f"LoRA weights (PEFT layout) that teach {about['base']['name']} to read through core",
        f"tokens (group size {about['group_size']}, window {about['window']}). `cca adapt` made",
        "it.",
        "",
        f"- Steps: {training['steps']:,}; tokens read: {training['tokens']:,}"
        + ("" if training["finished"] else " (not all of the planned steps)"),
        f"- Attention: {about['attention']}; rotary base {rope['theta']:,.0f} at every length",
        f"- Rows of up to {rope['trained_tokens']:,} tokens; longer texts are read, but it has not",
        "  been trained on them",
    ]
    if begun := training.get("begun_from"):
        lines.append(f"- Begun from the adapter {begun['name']} ({begun['weights_sha256']})")
    lines += [
        "",
        "## Data",
        "",
        "| file | from | licence |",
        "|---|---|---|",
    ]
    lines += [f"| {s.name} | {s.origin} | {s.licence} |" for s in used if s.name not in left_out]
    notes = [f"- {s.name}: {s.note}." for s in used if s.note and s.name not in left_out]
    made = [name for name in ("blanks", "facts") if name not in left_out]
    if made:
        notes.append(f"- Made by rule, without further text: {', '.join(made)}.")
    return "\n".join([*lines, "", *notes, ""])
