"""Adapters that are to be averaged: read, and checked to be of one base and for one use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cca_models.adapters import Adapter, AdapterSettings, read_adapter
from cca_models.adapters.peft_names import A, B, module_of
from cca_models.adapters.settings import SETTINGS_FILE
from cca_models.errors import AdapterError


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """An adapter that is averaged.

    Attributes:
        name: Of its folder; with that around it where two are called alike.
        share: What it counts in the mean.
        adapter: Its folder, and what its products are multiplied with.
        settings: What it was trained for.
        tensors: Its weights as they were saved, under PEFT's names.
    """

    name: str
    share: float
    adapter: Adapter
    settings: AdapterSettings
    tensors: Mapping[str, Tensor]


def read_parts(parts: Sequence[tuple[Path, float]]) -> list[Part]:
    """Read adapters that are averaged.

    Args:
        parts: Folders and shares.

    Raises:
        AdapterError: If one is missing, damaged or not plain LoRA, does not say what it was
            trained for, or was trained on other weights, for another use or otherwise than the
            first.
    """
    adapters = [read_adapter(folder) for folder, _ in parts]
    names = [adapter.name for adapter in adapters]
    if len(set(names)) < len(names):
        # What cca adapt makes is always called "adapter" or "best".
        names = [f"{adapter.path.parent.name}/{adapter.name}" for adapter in adapters]
    shares = [share for _, share in parts]
    found = [_read(*each) for each in zip(names, shares, adapters, strict=True)]
    for part in found[1:]:
        _expect_same_use(found[0], part)
        _expect_same_tensors(found[0], part)
    return found


def _read(name: str, share: float, adapter: Adapter) -> Part:
    if adapter.settings is None:
        raise AdapterError(
            f"adapter {name} has no {SETTINGS_FILE}: it does not say what it was trained for",
            hint="average adapters that cca adapt made",
        )
    try:
        tensors = load_file(adapter.weights)
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{adapter.weights} cannot be read: {error}", hint="copy the adapter again"
        ) from error
    for key in tensors:
        _expect_usable(adapter, key, tensors)
    return Part(name=name, share=share, adapter=adapter, settings=adapter.settings, tensors=tensors)


def _expect_usable(adapter: Adapter, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Check a tensor: a factor with its partner, or one that was trained as a whole."""
    wrong = ""
    if not bool(tensors[key].float().isfinite().all()):
        wrong = f"{key} has values that are not finite"
    elif key.endswith((A, B)):
        a, b = (tensors.get(key.removesuffix(A).removesuffix(B) + factor) for factor in (A, B))
        rank = adapter.lora.rank_of(module_of(key))
        if a is None or b is None or a.dim() != 2 or b.dim() != 2:
            wrong = f"{key} has no partner"
        elif not a.shape[0] == b.shape[1] == rank:
            wrong = f"{key} has not rank {rank}, as its config says"
    elif ".lora_" in key:
        raise AdapterError(
            f"adapter {adapter.name}: {key} is not supported",
            hint="adapters must be plain LoRA on linear layers, with norms trained as a whole",
        )
    if wrong:
        raise AdapterError(
            f"{adapter.weights}: the file is damaged ({wrong})", hint="copy the adapter again"
        )


def _expect_same_use(first: Part, part: Part) -> None:
    one, two = first.settings, part.settings
    for what, wanted, found in (
        ("base weights", one.base_sha256, two.base_sha256),
        ("attention", one.attention, two.attention),
        ("group size", one.cca.group_size, two.cca.group_size),
        ("window", one.cca.window, two.cca.window),
        ("rotary rule", one.rope.rule, two.rope.rule),
        ("rotary base", one.rope.theta, two.rope.theta),
    ):
        if wanted != found:
            raise AdapterError(
                f"adapters {first.name} and {part.name} were trained with different {what}: "
                f"{wanted} and {found}",
                hint="average adapters that were trained on one base, for one use",
            )


def _expect_same_tensors(first: Part, part: Part) -> None:
    """Check names, and shapes but for the ranks: those may differ."""
    for key in sorted(first.tensors.keys() | part.tensors.keys()):
        one, two = (_changed(key, tensors.get(key)) for tensors in (first.tensors, part.tensors))
        if one != two:
            raise AdapterError(
                f"adapters {first.name} and {part.name} do not change the same tensors: {key} "
                f"is {one} in the one and {two} in the other",
                hint="average adapters that were trained alike",
            )


def _changed(key: str, tensor: Tensor | None) -> str:
    """Say of which shape a tensor is, a factor without its rank."""
    if tensor is None:
        return "missing"
    if key.endswith(A):
        return f"[r, {tensor.shape[1]}]"
    return f"[{tensor.shape[0]}, r]" if key.endswith(B) else str(list(tensor.shape))
