"""The memory of a whole document: one memory a layer, and the positions it was read with."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cca_models.errors import ContextTooLongError, MemoryFileError, ModelError
from cca_models.layer_memory import KEPT, Layer
from cca_models.rope import Rotary

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel

FORMAT = 1


class Memory:
    """What a model has read so far. Made by LanguageModel.new_memory, fork or load.

    Attributes:
        layers: One memory a layer.
        rotary: The rotary positions of all its tokens.
        stretch: The stretch factor behind `rotary`.
        capacity: Tokens that it may hold with these positions.
        room: Tokens that it was made with room for; it grows beyond.
        model_fingerprint: What made it; a memory is of no use to anything else.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        rotary: Rotary,
        stretch: int,
        capacity: int,
        room: int,
        model_fingerprint: str,
    ) -> None:
        self.layers = list(layers)
        self.rotary = rotary
        self.stretch = stretch
        self.capacity = capacity
        self.room = room
        self.model_fingerprint = model_fingerprint

    @property
    def seen(self) -> int:
        """Tokens read."""
        return self.layers[0].seen

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return sum(layer.nbytes for layer in self.layers)

    def expect_room(self, tokens: int) -> None:
        """Check that more tokens fit.

        Raises:
            ContextTooLongError: If they do not.
        """
        over = self.seen + tokens - self.capacity
        if over > 0:
            raise ContextTooLongError(
                f"needs {self.seen + tokens:,} tokens, this memory holds {self.capacity:,} "
                f"({over:,} over)"
            )

    def fork(self) -> "Memory":
        """Make a second memory that goes its own way from here; nothing large is copied."""
        return Memory(
            [layer.fork() for layer in self.layers],
            rotary=self.rotary,
            stretch=self.stretch,
            capacity=self.capacity,
            room=self.room,
            model_fingerprint=self.model_fingerprint,
        )

    def save(self, path: Path) -> None:
        """Write it to one safetensors file and make sure that it is on the disk.

        Raises:
            OSError: If the file cannot be written whole; what was written stays for the caller
                to remove.
            torch.OutOfMemoryError: If a GPU lacks room for one layer of a fork that has pooled
                groups of its own. Other memories need none there; the memory stays as it was.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {
            f"layers.{i}.{name}": on_host(tensor)
            for i, layer in enumerate(self.layers)
            for name, tensor in layer.tensors().items()
        }
        header = {
            "format": FORMAT,
            "seen": self.seen,
            "stretch": self.stretch,
            "capacity": self.capacity,
            "room": self.room,
            "model": self.model_fingerprint,
        }
        try:
            save_file(tensors, path, metadata=_aligned({"cca": json.dumps(header)}, tensors))
        except SafetensorError as error:
            # The Rust side wraps the system's error in text; give the caller an OSError back.
            raise OSError(f"cannot write {path.name}: {error}") from error
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def save_margin(self, path: Path, before: "Memory") -> None:
        """Write what brings this memory back to `before`, or anywhere between: see rewound.

        Args:
            path: A safetensors file.
            before: A fork of this memory, taken when it had read a little less.

        Raises:
            OSError: If the file cannot be written whole.
            ValueError: If `before` is no earlier state of this memory, or lies more than about a
                window back.
        """
        from cca_models.memory_margin import save_margin

        save_margin(path, before, self)

    def rewound(self, path: Path, tokens: int, model: "LanguageModel") -> "Memory":
        """Make the memory of the first tokens alone; this one stays as it is.

        Args:
            path: What save_margin wrote for this memory.
            tokens: How many, from where the margin begins to all of them.
            model: What made the memory.

        Raises:
            MemoryFileError: If the file is missing, damaged, of another memory, or does not reach
                back that far.
        """
        from cca_models.memory_margin import rewound

        return rewound(self, path, tokens, model)

    @classmethod
    def load(cls, path: Path, model: "LanguageModel") -> "Memory":
        """Map a saved memory; tensors are read from the file when they are first used.

        Raises:
            MemoryFileError: If the file is missing, damaged or was made by another model.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt", device=str(model.device)) as file:
                header = json.loads((file.metadata() or {})["cca"])
                tensors = {name: file.get_tensor(name) for name in set(file.keys())}
            if header["format"] != FORMAT or header["model"] != model.fingerprint:
                raise MemoryFileError(f"{path.name} was made with another model or other settings")
            seen, capacity = int(header["seen"]), int(header["capacity"])
            # Earlier releases did not write it down.
            room = int(header.get("room", capacity))
            if not 0 <= seen <= capacity or room < 0:
                raise ValueError(f"{seen} tokens of {capacity}")
            memory = model.new_memory(capacity, room=min(room, capacity))
        except MemoryFileError:
            raise
        except (
            OSError, SafetensorError, ModelError,
            AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError,
        ) as error:  # fmt: skip
            raise MemoryFileError(f"{path.name} cannot be read: {error}") from error
        if seen == 0:
            return memory
        for i, layer in enumerate(memory.layers):
            found = {
                kind: tensors[f"layers.{i}.{kind}"]
                for kind in KEPT
                if f"layers.{i}.{kind}" in tensors
            }
            if len(found) != len(KEPT) or not _fits(found, seen, model):
                raise MemoryFileError(f"{path.name} lacks a part of layer {i}")
            layer.restore(found, seen=seen)
        return memory


def on_host(tensor: Tensor) -> Tensor:
    """Bring keys or values [B, KV, S, D] to the CPU, contiguous, without room on their device.

    On a GPU a slice of a buffer would be made whole first, so its heads, each whole, go one by one.
    """
    if tensor.device.type == "cpu":
        return tensor.contiguous()
    host = torch.empty(tensor.shape, dtype=tensor.dtype)
    for to, heads in zip(host, tensor, strict=True):
        for row, head in zip(to, heads, strict=True):
            row.copy_(head)
    return host


def _aligned(metadata: dict[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Lengthen the file's header so that the tensors start where torch's own would: at 64 bytes.

    Matrix products round differently from other addresses, so that a memory mapped from its file
    would not go on bit by bit like the one that was saved.
    """
    facts: dict[str, object] = {"__metadata__": {**metadata, "pad": ""}}
    at = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[tensor.dtype]
        end = at + tensor.nbytes
        facts[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    length = 8 + len(json.dumps(facts, separators=(",", ":")))
    return {**metadata, "pad": " " * (-length % 64)}


def _fits(tensors: Mapping[str, Tensor], seen: int, model: "LanguageModel") -> bool:
    """Say whether a layer's tensors are those of so many tokens."""
    d, cca = model.decoder, model.cca
    slots = {"core": seen // cca.group_size, "raw": seen - cca.raw_start(seen)}
    return all(
        t.shape == (1, d.kv_heads, slots[name.split("_")[0]], d.head_dim) and t.dtype == model.dtype
        for name, t in tensors.items()
    )
