"""Who sees what: the partition of the past into core tokens and raw tokens.

The one place that turns a position into a number of core tokens; plain integers, no torch.
"""


def visible_cores(position: int, *, group_size: int, window: int) -> int:
    """Count the core tokens that the token at a position sees, m(p) = max(0, (p + 1 - W) // G)."""
    return max(0, (position + 1 - window) // group_size)


def raw_start(position: int, *, group_size: int, window: int) -> int:
    """Give the first raw position that the token at a position sees, m(p) * G."""
    return visible_cores(position, group_size=group_size, window=window) * group_size
