"""The model that a command was asked to use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cca_cli.console import Console

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel

__all__ = ["DEFAULT_GROUP_SIZE", "DEFAULT_MODEL", "DEFAULT_WINDOW", "model_json", "open_model"]

# Held equal to cca_models by a test: help texts need them, and importing them would need torch.
DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_GROUP_SIZE = 16
DEFAULT_WINDOW = 1024


def open_model(
    console: Console,
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    group_size: int = DEFAULT_GROUP_SIZE,
    window: int = DEFAULT_WINDOW,
    offline: bool = False,
) -> LanguageModel:
    """Find, fetch if need be, and load a model.

    Args:
        console: For progress and the tokenizer's warning.
        name: The default model's name, a directory, or a hub id.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto", "fp32", "bf16" or "fp16".
        group_size: Tokens per core token, G.
        window: Raw tokens, W.
        offline: Never use the network.

    Raises:
        UsageError: If window and group_size contradict each other.
        ModelError: If the model is missing, damaged or of another kind.
    """
    from cca_cli.errors import UsageError

    if window < group_size:
        raise UsageError(
            f"--window {window} is smaller than --group-size {group_size}",
            hint=f"--window {group_size} at least; {DEFAULT_WINDOW} is the default",
        )
    # These import torch, which takes seconds.
    from cca_models.checkpoints import resolve_checkpoint
    from cca_models.config import CCAConfig
    from cca_models.engine import load_model

    with console.progress(name) as progress:
        checkpoint = resolve_checkpoint(name, offline=offline, progress=progress)
    cca = CCAConfig(group_size=group_size, window=window)
    model = load_model(checkpoint, cca=cca, device=device, dtype=dtype)
    console.detail(
        f"{checkpoint.name} on {model.device} in {str(model.dtype).removeprefix('torch.')}"
    )
    if model.tokenizer.warning:
        console.warn(model.tokenizer.warning)
    return model


def model_json(model: LanguageModel) -> dict[str, Any]:
    """Name a model in JSON results: which it is, and where and in what it computes."""
    return {
        "name": model.checkpoint.name,
        "fingerprint": model.fingerprint,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
