"""The attentions that can be compared, for whoever lists or plans them: no torch.

What each is, with its sources, is in cca_models.peers; a test holds the two together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kept = Literal["all", "bounded", "compressed", "selected"]


@dataclass(frozen=True, slots=True)
class Outline:
    """What planning must know of an attention.

    Attributes:
        kv_kept: As AttentionRecord.kv_kept.
        whole_prompt: Whether the prompt is read in one piece.
        needs_tuning: Whether answers mean nothing before a checkpoint was trained for it.
    """

    kv_kept: Kept
    whole_prompt: bool = False
    needs_tuning: bool = False


# Beside full attention and CCA itself, in the order of the tables.
PEERS: Mapping[str, Outline] = {
    "streaming-llm": Outline("bounded"),
    "lm-infinite": Outline("bounded"),
    "minference": Outline("all", whole_prompt=True),
    "minference-a-shape": Outline("all", whole_prompt=True),
    "xattention": Outline("all", whole_prompt=True),
    "longlora": Outline("all", whole_prompt=True, needs_tuning=True),
    "longformer": Outline("bounded", needs_tuning=True),
    "bigbird": Outline("all", needs_tuning=True),
    "nsa": Outline("all", needs_tuning=True),
    "moba": Outline("all", needs_tuning=True),
    "quest": Outline("all", whole_prompt=True),
    "snapkv": Outline("selected", whole_prompt=True),
}
