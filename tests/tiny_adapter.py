"""A random LoRA adapter for a tiny checkpoint, written without PEFT in a few milliseconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from cca_models.adapters import weights_sha256

PREFIX = "base_model.model."
RANK, ALPHA = 4, 8


def adapter_tensors(base: Path, *, seed: int = 0, rank: int = RANK) -> dict[str, np.ndarray]:
    """Make random factors for every linear layer of a checkpoint, and norms as a whole."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, weight in load_file(base / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            module = PREFIX + name.removesuffix(".weight")
            for factor, shape in (("A", (rank, weight.shape[1])), ("B", (weight.shape[0], rank))):
                values = rng.standard_normal(shape) / 4
                tensors[f"{module}.lora_{factor}.weight"] = values.astype(np.float32)
        elif name.endswith("norm.weight"):
            tensors[PREFIX + name] = rng.uniform(0.5, 1.5, weight.shape).astype(np.float32)
    return tensors


def cca_settings(base: Path, /, **changes: Any) -> dict[str, Any]:
    """Make the content of cca.json for an adapter of a checkpoint."""
    return {
        "format": 1,
        "base": {"name": base.name, "weights_sha256": weights_sha256(base)},
        "group_size": 4,
        "window": 32,
        "rope": {
            "rule": "fixed-base", "theta": 5e4, "max_tokens": 8192, "trained_tokens": 1024,
        },
        "locate": {"heads": [[1, 2], [0, 3]], "subtract_empty": False, "attention_weight": 1.0},
        "not_found": {"coverage": 0.5},
        "training": {"steps": 1},
        **changes,
    }  # fmt: skip


def write_adapter(
    path: Path,
    base: Path,
    *,
    settings: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Write an adapter's folder and return it; without settings it is a plain PEFT adapter."""
    path.mkdir(parents=True, exist_ok=True)
    content = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (path / "adapter_config.json").write_text(json.dumps({**content, **(config or {})}))
    if settings is not None:
        (path / "cca.json").write_text(json.dumps(settings))
    save_file(adapter_tensors(base, seed=seed), path / "adapter_model.safetensors")
    return path
