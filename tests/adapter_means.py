"""Random adapters of a tiny checkpoint, and the exact mean of what they add to its weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_adapter import PREFIX, RANK, adapter_tensors, cca_settings, write_adapter

from cca_models.adapters import read_adapter

WEIGHTS = "adapter_model.safetensors"
A, B = ".lora_A.weight", ".lora_B.weight"
NORM = f"{PREFIX}model.layers.1.input_layernorm.weight"
Products = dict[str, torch.Tensor]


def make_adapter(
    folder: Path,
    base: Path,
    /,
    *,
    seed: int = 0,
    rank: int = RANK,
    own: int = RANK,
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write an adapter whose products have rank `own`, in factors of rank `rank`."""
    settings = cca_settings(base, **changes)
    write_adapter(folder, base, settings=settings, config={"r": rank, **(config or {})})
    tensors = {}
    for name, values in adapter_tensors(base, seed=seed, rank=rank).items():
        if name.endswith(A):
            values[own:] = 0
        tensors[name] = torch.from_numpy(values)
    save_file(tensors, folder / WEIGHTS)
    return folder


def products(folder: Path) -> Products:
    """Compute what an adapter adds to each module's weight, in float64."""
    lora = read_adapter(folder).lora
    tensors = {name: tensor.double() for name, tensor in load_file(folder / WEIGHTS).items()}
    return {
        module: lora.scale_of(module) * tensors[PREFIX + module + B] @ tensors[name]
        for name in tensors
        if name.endswith(A)
        for module in [name.removeprefix(PREFIX).removesuffix(A)]
    }


def mean_of(*parts: tuple[Path, float]) -> Products:
    found = [(products(folder), share) for folder, share in parts]
    return {module: sum(share * p[module] for p, share in found) for module in found[0][0]}


def furthest(found: Products, exact: Products) -> float:
    """Largest distance of a product from the exact one, relative to its length."""
    assert found.keys() == exact.keys() and len(exact) == 14
    return max(float((found[m] - exact[m]).norm() / exact[m].norm()) for m in exact)
