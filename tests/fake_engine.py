"""A stand-in for the engine: a "memory" is a running digest of the ids, so any mix-up shows.

Nothing here imports torch. `open_with_fake` is also run in processes of its own by the tests that
kill one: see the bottom of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

EMPTY = hashlib.sha256(b"").hexdigest()


def digest_of(ids: Sequence[int]) -> str:
    """Return the digest that a memory of exactly these ids holds."""
    digest = EMPTY
    for token in ids:
        digest = hashlib.sha256(f"{digest} {token}".encode()).hexdigest()
    return digest


class FakeMemory:
    """A chain of hashes over the ids read."""

    stretch = 1

    def __init__(self, capacity: int, seen: int = 0, digest: str = EMPTY) -> None:
        self.capacity = capacity
        self.seen = seen
        self.digest = digest
        self.nbytes = seen
        self.trail: dict[int, str] = {}

    def read(self, token: int) -> None:
        """Take in one token."""
        self.digest = hashlib.sha256(f"{self.digest} {token}".encode()).hexdigest()
        self.seen += 1
        self.trail[self.seen] = self.digest
        self.trail.pop(self.seen - 100, None)

    def fork(self) -> FakeMemory:
        """Make a second memory that goes its own way from here."""
        return FakeMemory(self.capacity, self.seen, self.digest)

    def save_margin(self, path: Path, before: FakeMemory) -> None:
        """Write the digests from an earlier state on."""
        from safetensors.numpy import save_file

        trail = {seen: digest for seen, digest in self.trail.items() if seen >= before.seen}
        save_file({"raw_k": np.zeros(1)}, path, metadata={"fake": json.dumps(trail)})

    def rewound(self, path: Path, tokens: int, model: FakeModel) -> FakeMemory:
        """Give the memory as it was after fewer tokens."""
        from safetensors import safe_open

        with safe_open(path, framework="np") as stream:
            trail = json.loads(stream.metadata()["fake"])
        return FakeMemory(self.capacity, tokens, trail[str(tokens)])

    def save(self, path: Path) -> None:
        """Write a real safetensors file."""
        from safetensors.numpy import save_file

        facts = {"seen": self.seen, "digest": self.digest, "capacity": self.capacity}
        body = np.zeros(max(self.seen, 1), dtype=np.uint8)
        save_file({"core_k": body}, path, metadata={"fake": json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> FakeMemory:
        """Read it back."""
        from safetensors import safe_open

        with safe_open(path, framework="np") as stream:
            facts = json.loads(stream.metadata()["fake"])
        return cls(facts["capacity"], facts["seen"], facts["digest"])


class FakeTokenizer:
    """One token per character."""

    fingerprint = "characters"
    backend = "fake"
    warning = None

    def encode(self, text: str) -> list[int]:
        """Return the code points."""
        return [ord(character) for character in text]


class FakeDtype(str):
    """A number format of a byte."""

    itemsize = 1


@dataclass
class FakeModel:
    """What `ingestion` needs of a LanguageModel."""

    name: str = "fake"
    weights: str = "v1"
    group_size: int = 16
    window: int = 1024
    dtype: str = "torch.float32"
    max_tokens: int = 100_000
    chunk: int = 100
    pause: float = 0.0
    on_tokens: Callable[[int], None] | None = None
    prefilled: list[int] = field(default_factory=list)
    device: str = "cpu"
    adapter: str | None = None
    roomy: bool = False

    def __post_init__(self) -> None:
        self.dtype = FakeDtype(self.dtype)
        config = {"num_attention_heads": 4, "hidden_size": 32, "num_hidden_layers": 2}
        self.checkpoint = SimpleNamespace(
            name=self.name,
            fingerprint=self.weights,
            config=config,
            adapter=SimpleNamespace(name=self.adapter) if self.adapter else None,
        )
        self.tokenizer = FakeTokenizer()
        self.cca = SimpleNamespace(group_size=self.group_size, window=self.window)

    @property
    def fingerprint(self) -> str:
        """Digest of name, weights and settings."""
        return f"{self.name} {self.weights} {self.group_size} {self.window} {self.dtype}"

    def new_memory(self, capacity: int) -> FakeMemory:
        """Make an empty memory; a roomy model's may grow, like those with one base of positions."""
        return FakeMemory(self.max_tokens if self.roomy else capacity)

    def estimate_seconds(self, tokens: int) -> float:
        """Estimate a millisecond a token."""
        return tokens / 1000

    def prefill(self, memory: FakeMemory, ids: Sequence[int], *, on_chunk: Any = None) -> None:
        """Read in chunks and record how many tokens were read."""
        for start in range(0, len(ids), self.chunk):
            part = ids[start : start + self.chunk]
            for token in part:
                memory.read(token)
            self.prefilled.append(len(part))
            time.sleep(self.pause)
            if self.on_tokens is not None:
                self.on_tokens(memory.seen)
            if on_chunk is not None:
                on_chunk(min(start + self.chunk, len(ids)), len(ids))


def load_fake(path: Path, model: FakeModel) -> FakeMemory | str:
    """Stand in for ingestion_job._load_memory."""
    try:
        return FakeMemory.load(path)
    except Exception as error:
        return str(error)


def main() -> None:
    """Ingest a file with a slow fake; arguments: file, seconds per chunk, tokens to die after."""
    from cca_cli import ingestion, ingestion_checkpoints, ingestion_job
    from cca_cli.console import Console

    ingestion_job._load_memory = load_fake
    ingestion_checkpoints.CHECKPOINT_SECONDS = 0.0

    def die(seen: int) -> None:
        if seen >= int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

    model = FakeModel(pause=float(sys.argv[2]), on_tokens=die)
    opened = ingestion.open_document(sys.argv[1], model, console=Console(), prefix_ids=(7, 7))
    expected = digest_of(opened.text.ids.tolist())
    assert opened.memory.digest == expected
    print(json.dumps({"hit": opened.hit, "prefilled": sum(model.prefilled)}))


if __name__ == "__main__":
    main()
