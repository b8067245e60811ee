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
    return rotate(x, *(t.to(x.dtype) for t in tables(by, frequencies, device=x.device)))


def tables(by: Tensor, frequencies: Tensor, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make cosines and sines that turn on by so many positions, as Rotary.tables; [L, D]."""
    # float64: at position 100,000 float32 leaves four digits of the angle. Not every accelerator
    # has it; where it does, positions that lie there need not wait to be fetched.
    where = device if device.type == "cuda" else torch.device("cpu")
    angle = by.to(where, torch.float64)[:, None] * frequencies.to(where, torch.float64)
    cos, sin = angle.cos(), angle.sin()
    both = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    return both if where == device else (both[0].float().to(device), both[1].float().to(device))
