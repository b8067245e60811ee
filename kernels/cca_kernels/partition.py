"""Who sees what: the partition of the past into core tokens and raw tokens.

The one place that turns a position into a number of core tokens; plain integers, no torch.
"""

from collections.abc import Iterator


def visible_cores(position: int, *, group_size: int, window: int) -> int:
    """Count the core tokens that the token at a position sees, m(p) = max(0, (p + 1 - W) // G)."""
    return max(0, (position + 1 - window) // group_size)


def raw_start(position: int, *, group_size: int, window: int) -> int:
    """Give the first raw position that the token at a position sees, m(p) * G."""
    return visible_cores(position, group_size=group_size, window=window) * group_size


def query_blocks(
    position: int, L: int, S: int, *, block: int, group_size: int, window: int
) -> Iterator[tuple[slice, int, slice]]:
    """Cut L queries, the first at `position`, into blocks.

    Args:
        position: Position of the first query.
        L: Queries.
        S: Raw keys; the last stands where the last query stands.
        block: Queries in a block.
        group_size: Tokens per group, G.
        window: Raw tokens that every query sees at least, W.

    Yields:
        A block's queries, the core tokens that its last query sees, and the raw slots from where
        its first query's window starts up to its last query.
    """
    first_raw = position + L - S
    for a in range(0, L, block):
        b = min(a + block, L)
        cores = visible_cores(position + b - 1, group_size=group_size, window=window)
        start = raw_start(position + a, group_size=group_size, window=window)
        yield slice(a, b), cores, slice(start - first_raw, position + b - first_raw)
