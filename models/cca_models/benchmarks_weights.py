"""Weights for a benchmark: a checkpoint's own, or random ones of a shape, made on the device."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cca_models.benchmarks_sizes import tensor_shapes
from cca_models.weights import load_weights


def benchmark_weights(
    path: Path | None,
    config: Mapping[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> dict[str, Tensor]:
    """Load a checkpoint's tensors, or make random ones where there is no checkpoint."""
    if path is not None:
        return load_weights(path, device=device, dtype=dtype)
    return random_weights(config, device=device, dtype=dtype, seed=seed)


def random_weights(
    config: Mapping[str, Any], *, device: torch.device, dtype: torch.dtype, seed: int
) -> dict[str, Tensor]:
    """Make random weights, every tensor memory of its own: a run must read as much as a real one.

    Matrices are uniform with variance 1 / inputs, so that states neither vanish nor overflow.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    weights = {}
    for name, shape in tensor_shapes(config).items():
        tensor = torch.empty(shape, device=device, dtype=dtype)
        if tensor.dim() == 1:
            weights[name] = tensor.fill_(1)
        else:
            bound = math.sqrt(3 / shape[-1])
            weights[name] = tensor.uniform_(-bound, bound, generator=generator)
    return weights
