"""The model that a command was asked to use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cca_cli.console import Console
from cca_cli.interrupts import heard_interrupts

if TYPE_CHECKING:
    from cca_models.checkpoints import Checkpoint
    from cca_models.config import CCAConfig
    from cca_models.engine import LanguageModel

__all__ = [
    "DEFAULT_ADAPTER",
    "DEFAULT_GROUP_SIZE",
    "DEFAULT_MODEL",
    "DEFAULT_WINDOW",
    "asked_model",
    "expect_window",
    "model_json",
    "open_model",
    "warn_of_length",
]

# Held equal to cca_models by a test: help texts need them, and importing them would need torch.
DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_ADAPTER = "default"
DEFAULT_GROUP_SIZE = 16
DEFAULT_WINDOW = 1024


def asked_model(console: Console, options: Mapping[str, Any]) -> LanguageModel:
    """Open the model that a command's options ask for.

    Args:
        console: For progress and warnings.
        options: Of the command, by the names of its parameters: its context's `params`. One
            without --group-size and --window takes the adapter's.

    Raises:
        UsageError: If window and group_size contradict each other.
        ModelError: If model or adapter is missing, damaged or of another kind.
    """
    return open_model(
        console,
        options["model"],
        adapter=options["adapter"],
        device=options["device"],
        dtype=options["dtype"],
        group_size=options.get("group_size"),
        window=options.get("window"),
        offline=options["offline"],
    )


@heard_interrupts()
def open_model(
    console: Console,
    name: str,
    *,
    adapter: str = DEFAULT_ADAPTER,
    device: str = "auto",
    dtype: str = "auto",
    group_size: int | None = None,
    window: int | None = None,
    offline: bool = False,
) -> LanguageModel:
    """Find, fetch if need be, and load a model.

    Args:
        console: For progress and warnings.
        name: The default model's name, a directory, or a hub id.
        adapter: "default", "none" or the folder of an adapter.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto", "fp32", "bf16" or "fp16".
        group_size: Tokens per core token, G; the adapter's if None.
        window: Raw tokens, W; the adapter's if None.
        offline: Never use the network.

    Raises:
        UsageError: If window and group_size contradict each other.
        ModelError: If model or adapter is missing, damaged or of another kind.
    """
    if group_size is not None and window is not None:
        # What can be known before a download is told before it.
        expect_window(group_size, window)
    asked = (name, adapter, device, dtype, group_size, window)
    if console.models and asked in console.models:
        return _told(console, console.models[asked])
    # These import torch, which takes seconds.
    from cca_models.checkpoints import resolve_checkpoint
    from cca_models.engine import load_model

    with console.progress(name) as progress:
        checkpoint = resolve_checkpoint(name, adapter=adapter, offline=offline, progress=progress)
    cca = _settings(console, checkpoint, group_size, window)
    model = load_model(checkpoint, cca=cca, device=device, dtype=dtype)
    console.detail(
        f"{checkpoint.name} on {model.device} in {str(model.dtype).removeprefix('torch.')}, "
        + (f"adapter {checkpoint.adapter.path}" if checkpoint.adapter else "no adapter")
    )
    if console.models is not None:
        # One at a time: two may not fit into the memory.
        console.models.clear()
        console.models[asked] = model
    return _told(console, model)


def _told(console: Console, model: LanguageModel) -> LanguageModel:
    """Warn of what a model's files say against it."""
    adapter = model.checkpoint.adapter
    for warning in (model.tokenizer.warning, adapter and adapter.warning):
        if warning:
            console.warn(warning)
    return model


def expect_window(group_size: int, window: int) -> None:
    """Check that a window holds a group.

    Raises:
        UsageError: If it does not.
    """
    from cca_cli.errors import UsageError

    if window < group_size:
        raise UsageError(
            f"--window {window} is smaller than --group-size {group_size}",
            hint=f"--window {group_size} at least; {DEFAULT_WINDOW} is the default",
        )


def _settings(
    console: Console, checkpoint: Checkpoint, group_size: int | None, window: int | None
) -> CCAConfig:
    """Choose group size and window; warns where they are not what the adapter was trained with."""
    from cca_models.config import CCAConfig

    own = checkpoint.cca
    group_size, window = group_size or own.group_size, window or own.window
    expect_window(group_size, window)
    chosen = CCAConfig(group_size=group_size, window=window)
    adapter = checkpoint.adapter
    if adapter and adapter.settings and chosen != own:
        console.warn(
            f"group size {group_size} and window {window:,} are not what adapter {adapter.name} "
            f"was trained with, {own.group_size} and {own.window:,}: answers may be worse"
        )
    return chosen


def warn_of_length(console: Console, model: LanguageModel, name: str, tokens: int) -> None:
    """Warn of a document that is longer than all that the model's adapter was trained on."""
    trained = model.adapted_tokens
    if trained is not None and tokens > trained:
        console.warn(
            f"{name}: {tokens:,} tokens are more than the {trained:,} that the model was trained "
            "to read at once: answers may be worse"
        )


def model_json(model: LanguageModel) -> dict[str, Any]:
    """Name a model in JSON results: which it is, and where and in what it computes."""
    return {
        "name": model.checkpoint.name,
        "adapter": model.checkpoint.adapter.name if model.checkpoint.adapter else None,
        "fingerprint": model.fingerprint,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
