"""The margin of a memory: the raw tokens that it has folded last, kept so that it can go back.

A memory cannot forget its last tokens by itself: the earlier state had a raw tail that began
further to the left, and those raw tokens are core tokens by now. The margin holds them, a few
tens of tokens. With it the memory of a text that has grown at its end goes back to where old and
new text part, and reads on from there.

Shapes: raw keys and values [B, KV, S, D] with S the tokens between the two tails' beginnings.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cca_models.errors import MemoryFileError
from cca_models.memory import Memory, on_host

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel

_FORMAT = 1
_RAW = ("raw_k", "raw_v")


def save_margin(path: Path, before: Memory, after: Memory) -> None:
    """Write what brings `after` back to `before`: see Memory.save_margin."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if not before.seen <= after.seen or before.model_fingerprint != after.model_fingerprint:
        raise ValueError(
            f"expected an earlier state of a memory of {after.seen} tokens, got {before.seen}"
        )
    begin = _tail_begin(before)
    missing = _tail_begin(after) - begin
    if begin + missing > before.seen:
        raise ValueError(
            f"expected a margin within the window of {after.layers[0].config.window} tokens, "
            f"got {after.seen - before.seen}"
        )
    tensors = {
        f"layers.{i}.{name}": on_host(layer.tensors()[name][:, :, :missing])
        for i, layer in enumerate(before.layers)
        for name in _RAW
        if missing
    }
    header = {
        "format": _FORMAT,
        "begin": begin,
        # A tail that begins with the text goes back to any place in it.
        "first": before.seen if begin else 1,
        "seen": after.seen,
        "model": after.model_fingerprint,
    }
    try:
        save_file(tensors, path, metadata={"cca": json.dumps(header)})
    except SafetensorError as error:
        raise OSError(f"cannot write {path.name}: {error}") from error


def rewound(memory: Memory, path: Path, tokens: int, model: "LanguageModel") -> Memory:
    """Make the memory of the first tokens alone: see Memory.rewound."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(model.device)) as file:
            header = json.loads((file.metadata() or {})["cca"])
            margin = {name: file.get_tensor(name) for name in set(file.keys())}
        of_this = (_FORMAT, memory.seen, memory.model_fingerprint)
        if (header["format"], header["seen"], header["model"]) != of_this:
            raise MemoryFileError(f"{path.name} is the margin of another memory")
        begin, first = int(header["begin"]), int(header["first"])
    except MemoryFileError:
        raise
    except (
        OSError, SafetensorError,
        AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise MemoryFileError(f"{path.name} cannot be read: {error}") from error
    if not first <= tokens <= memory.seen:
        raise MemoryFileError(f"{path.name} reaches back to token {first:,}, not to {tokens:,}")
    earlier = model.new_memory(memory.capacity, room=memory.room)
    G, start = model.cca.group_size, model.cca.raw_start(tokens)
    for i, (layer, old) in enumerate(zip(earlier.layers, memory.layers, strict=True)):
        kept = old.tensors()
        # Whole, as a saved memory's are: what reads on may count on it.
        core = {n: kept[n][:, :, : tokens // G].contiguous() for n in ("core_k", "core_v")}
        raw = {}
        for name in _RAW:
            tail = _joined(margin.get(f"layers.{i}.{name}"), kept[name])
            if tail.shape[2] != memory.seen - begin:
                raise MemoryFileError(f"{path.name} lacks a part of layer {i}")
            raw[name] = tail[:, :, start - begin : tokens - begin].contiguous()
        layer.restore({**core, **raw}, seen=tokens)
    return earlier


def _tail_begin(memory: Memory) -> int:
    """Give the position of the first raw token that a memory holds."""
    return memory.seen - int(memory.layers[0].tensors()["raw_k"].shape[2])


def _joined(margin: Tensor | None, tail: Tensor) -> Tensor:
    if margin is None:
        return tail
    if margin.dtype != tail.dtype or margin.shape[:2] != tail.shape[:2]:
        raise MemoryFileError("the margin's tensors are of another shape")
    return torch.cat([margin, tail], dim=2)
