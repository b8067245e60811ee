"""Settings small enough that every attention leaves something out of 150 tokens."""

from collections.abc import Mapping
from typing import Any

SMALL: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "cca": {"group_size": 4, "window": 32},
    "streaming-llm": {"sinks": 3, "window": 20},
    "quest": {"page": 8, "keep": 32, "dense_layers": 2},
    "snapkv": {"keep": 30, "window": 10, "pool": 5},
    "nsa": {
        "block": 8,
        "count": 4,
        "window": 12,
        "initial": 1,
        "local": 2,
        "gates": (0.5, 0.3, 0.7),
    },
    "moba": {"block": 8, "count": 3, "sparse_decode": False},
    "minference": {"columns": 12, "diagonals": 20, "last": 16, "sinks": 3, "recent": 8},
    "minference-a-shape": {"sinks": 3, "window": 20},
    "xattention": {"block": 16, "stride": 4, "threshold": 0.5},
    "lm-infinite": {"global_tokens": 5, "window": 23},
    "longlora": {"group_ratio": 0.25},
    "longformer": {"global_tokens": 4, "window": 21},
    "bigbird": {"block": 8, "random_blocks": 2},
}
