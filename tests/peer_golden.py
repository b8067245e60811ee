"""What the authors' own reference functions gave on inputs that anyone can draw again.

A file of tests/data/peers names the function (repository, commit, file), and holds for each case
the seed and shape of its inputs and what the function gave for them. Queries, keys and values are
noise plus runs of tokens that resemble each other, so that attention has something to choose.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "data" / "peers"


def golden(name: str) -> dict[str, Any]:
    """Load the file of an attention: its source and its cases."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def drawn(inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Draw q [1, H, L, D] and k, v [1, KV, L, D] in float32; numpy never changes this stream."""
    random = np.random.RandomState(inputs["seed"])
    length, dim, run = inputs["length"], inputs["head_dim"], inputs["run"]
    found = []
    for heads in (inputs["heads"], inputs["kv_heads"], inputs["kv_heads"]):
        noise = random.standard_normal((1, heads, length, dim))
        slow = random.standard_normal((1, heads, -(-length // run), dim))
        both = noise + inputs["slow"] * slow.repeat(run, axis=2)[:, :, :length]
        found.append(torch.from_numpy(both.astype(np.float32)))
    q, k, v = found
    return q * inputs["sharpness"], k, v
