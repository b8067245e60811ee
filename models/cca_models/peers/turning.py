"""Turning rotated queries and keys to other positions."""

import torch
from torch import Tensor

from cca_models.peers.sdpa import wide
from cca_models.rope import rotate


def turn(x: Tensor, by: Tensor, frequencies: Tensor) -> Tensor:
    """Turn rotated heads on, by so many positions each (negative: back).

    Args:
        x: Rotated queries or keys, [B, H, L, D].
        by: Positions, [L].
        frequencies: Inverse rotary frequencies, [D / 2].

    Returns:
        What x would be, had its tokens stood at their positions + by; in float32 at least, as a
        second rounded turn would double the first one's error.
    """
    x = wide(x)
    # float64: at position 100,000 float32 leaves four digits of the angle. Not every accelerator
    # has it; where it does, positions that lie there need not wait to be fetched.
    where = x.device if x.device.type == "cuda" else torch.device("cpu")
    angle = by.to(where, torch.float64)[:, None] * frequencies.to(where, torch.float64)
    cos, sin = angle.cos(), angle.sin()
    tables = (torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))
    return rotate(x, *(t.to(device=x.device, dtype=x.dtype) for t in tables))
