"""The mathematics of CCA-Attention on tensors.

Dimensions, for the whole project:
    B   batch                 L   queries              G   group size
    H   query heads           S   raw keys             M   groups (core tokens)
    KV  key/value heads       D   head dim             W   window

Tensors are [B, H, L, D] and [B, KV, S, D]. Positions count from 0. The definition is in
`cca_kernels.reference`, its derivation in docs/method.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cca_kernels.api import Impl, attend, decode, group_anchors, pool_groups, pool_queries
    from cca_kernels.partition import raw_start, visible_cores

__all__ = [
    "Impl",
    "attend",
    "decode",
    "group_anchors",
    "pool_groups",
    "pool_queries",
    "raw_start",
    "visible_cores",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that importing the package does not import torch."""
    if name in ("raw_start", "visible_cores"):
        from cca_kernels import partition

        return getattr(partition, name)
    if name in __all__:
        from cca_kernels import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
