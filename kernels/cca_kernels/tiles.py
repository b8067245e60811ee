"""Tile sizes of the Triton kernels: one table, found offline with `cca bench --tune`.

A tile is looked up by operation, architecture, head dim and dtype; an architecture that was never
tuned takes the entry whose shared memory fits it. No kernel tunes itself at run time: the first
call would stall, and two runs could round differently.
"""

from dataclasses import dataclass


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


# An operation's tiles by architecture: the largest padded head dim and the most bytes of an element
# that an entry serves, and its tile; from small to large, the first that fits is taken.
Table = dict[str, list[tuple[int, int, Tile]]]
_NEAREST = {"blackwell": "hopper", "older": "ada"}


def tile_for(table: Table, arch: str, head_dim: int, itemsize: int) -> Tile:
    """Look a tile up: the first entry whose head dim and element size are large enough.

    Args:
        table: An operation's tiles.
        arch: From `devices.architecture`. Without entries of their own data centre Blackwells take
            Hopper's; cards older than Ampere, where the kernels run only when named, Ada's.
        head_dim: Head dim padded to a power of two.
        itemsize: Bytes of an element.

    Raises:
        ValueError: If the head dim is larger than any entry's.
    """
    entries = table[arch if arch in table else _NEAREST[arch]]
    for largest, size, tile in entries:
        if head_dim <= largest and itemsize <= size:
            return tile
    raise ValueError(f"expected a head dim of at most {entries[-1][0]}, got {head_dim}")
