"""Tile sizes of the Triton kernels: one table, found offline with `cca bench --tune`.

A tile is looked up by operation, architecture, head dim and dtype; an architecture that was never
tuned takes the entry whose shared memory fits it. No kernel tunes itself at run time: the first
call would stall, and two runs could round differently.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """How one kernel cuts its work.

    Attributes:
        block_q: Queries a program takes at a time.
        block_k: Keys a program takes at a time.
        num_warps: Warps a program runs on.
        num_stages: Loads in flight in the pipelined loops.
    """

    block_q: int
    block_k: int
    num_warps: int
    num_stages: int


# Under the interpreter on a CPU: small, so that odd sizes cross several tiles.
_INTERPRETER = Tile(block_q=32, block_k=32, num_warps=4, num_stages=1)


@lru_cache(maxsize=64)
def architecture(device: torch.device) -> str:
    """Name the architecture that a device's tiles are chosen for.

    Returns:
        "hopper"; "ampere" (A100); "ada" for all whose programs have 99 KiB of shared memory: other
        Amperes, Ada, and Blackwell without data centre sizes; "blackwell"; "older"; or
        "interpreter" on a CPU.
    """
    if device.type != "cuda":
        return "interpreter"
    major, minor = torch.cuda.get_device_capability(device)
    if major == 9:
        return "hopper"
    if (major, minor) == (8, 0):
        return "ampere"
    if major == 8 or major >= 12:
        return "ada"
    return "blackwell" if major >= 10 else "older"


def has_kernels(device: torch.device) -> bool:
    """Say whether the kernels run on a device by themselves: NVIDIA, Ampere or newer, and Triton.

    Before Ampere a program has too little shared memory for the tiles, and there is no bfloat16;
    ROCm calls its devices cuda, too, but compiles other kernels.
    """
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    return architecture(device) != "older"


def tile_for(
    table: dict[str, list[tuple[int, int, Tile]]], arch: str, head_dim: int, itemsize: int
) -> Tile:
    """Look a tile up: the first entry whose head dim and element size are large enough.

    Args:
        table: An operation's tiles by architecture, from small to large.
        arch: From `architecture`. Data centre Blackwells take Hopper's entries; cards older than
            Ampere, where the kernels run only when they are named, take Ada's.
        head_dim: Head dim padded to a power of two.
        itemsize: Bytes of an element.

    Raises:
        ValueError: If the head dim is larger than any entry's.
    """
    if arch == "interpreter":
        return _INTERPRETER
    entries = table[{"blackwell": "hopper", "older": "ada"}.get(arch, arch)]
    for largest, size, tile in entries:
        if head_dim <= largest and itemsize <= size:
            return tile
    raise ValueError(f"expected a head dim of at most {entries[-1][0]}, got {head_dim}")
