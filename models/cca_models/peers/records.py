"""What is known of each attention, and where its code is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Literal

from torch import Tensor

from cca_models.layer_memory import Layer

# Modules of this package with a RECORD or RECORDS, in the order of the tables.
_MODULES = (
    "full", "cca", "streaming_llm", "lm_infinite", "minference", "xattention", "longlora",
    "longformer", "bigbird", "nsa", "moba", "quest", "snapkv",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a layer's memory stands in its model.

    Attributes:
        layer: Number of the layer, from 0.
        layers: How many there are.
        heads: Query heads, H.
        kv_heads: KV heads; divides H.
        head_dim: Size of a head, D.
        frequencies: Inverse rotary frequencies of the memory, [D / 2].
        seed: Of whatever is drawn at random.
    """

    layer: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    frequencies: Tensor
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionRecord:
    """An attention that CCA is compared with.

    Attributes:
        name: As the user names it.
        title: As its authors name it.
        make: Makes the memory of one layer, from its place and settings.
        oracle: Computes the outputs [B, H, L, D] of a whole sequence of rotated q [B, H, L, D],
            k and v [B, KV, L, D] by the definition, L x L scores at once.
        settings: The authors' defaults.
        paper: Where it is described.
        code: The authors' repository; empty if there is none.
        needs_tuning: Whether a checkpoint must be trained for it before its answers mean anything.
        prefill: "dense", "sparse", or "training" where the method is one for training alone.
        decode: "dense" or "sparse".
        kv_kept: What it keeps of the past: "all", "bounded", "compressed" (less than all, but
            growing with the text) or "selected".
        exact: Whether it computes full attention.
        reaches_all: Whether every earlier token can still influence a new one at a layer.
        shortest: Tokens below which it is full attention.
        adapted: What of it is ours; empty if it is the authors' definition.
        whole_prompt: Whether it must see the prompt in one piece to decide what to keep or skip.
        incremental: Whether token by token gives what the whole sequence at once gives.
        note: One more thing that a reader of a table should know.
    """

    name: str
    title: str
    make: Callable[..., Layer]
    oracle: Callable[..., Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    paper: str
    code: str = ""
    needs_tuning: bool
    prefill: Literal["dense", "sparse", "training"]
    decode: Literal["dense", "sparse"]
    kv_kept: Literal["all", "bounded", "compressed", "selected"]
    exact: bool = False
    reaches_all: bool
    shortest: int = 0
    adapted: str = ""
    whole_prompt: bool = False
    incremental: bool = True
    note: str = ""

    def settled(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Give the settings with some changed.

        Raises:
            ValueError: If there is no setting of that name.
        """
        if unknown := sorted(set(changes) - set(self.settings)):
            known = ", ".join(self.settings) or "no settings"
            raise ValueError(f"expected settings of {self.name} ({known}), got {unknown[0]!r}")
        return {**self.settings, **changes}


@cache
def records() -> Mapping[str, AttentionRecord]:
    """Give all attentions by name."""
    found: dict[str, AttentionRecord] = {}
    for module in _MODULES:
        code = import_module(f"cca_models.peers.{module}")
        for one in getattr(code, "RECORDS", None) or (code.RECORD,):
            found[one.name] = one
    return found


def record(name: str) -> AttentionRecord:
    """Give one by name.

    Raises:
        ValueError: If there is none of that name.
    """
    known = records()
    if name not in known:
        raise ValueError(f"expected one of {', '.join(known)}, got {name!r}")
    return known[name]
