"""A peer in a benchmark: the engine with a peer's memories, read in chunks or in one piece."""

import time
from typing import Any

import torch

from cca_models.benchmarks_cells import wait_for
from cca_models.benchmarks_engine import CCAContender
from cca_models.benchmarks_sampling import steady_seconds
from cca_models.checkpoints import Checkpoint
from cca_models.config import CCAConfig
from cca_models.decoder import Decoder
from cca_models.memory import Memory
from cca_models.peers.decoder import read_with
from cca_models.peers.past import PeerLayer
from cca_models.peers.records import record

# Random tokens put into a memory at a time.
_PIECE = 8192


class PeerContender(CCAContender):
    """An attention of cca_models.peers with its authors' settings.

    Args:
        checkpoint: Name and config; its files are not read.
        decoder: Its layers.
        peer: Name of the attention.
        length: Tokens to be read.
        new_tokens: Tokens to be written after them.
        seed: Seed of the token ids.
        batch: Rows to be read and written together.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        decoder: Decoder,
        *,
        peer: str,
        length: int,
        new_tokens: int,
        seed: int,
        batch: int = 1,
    ) -> None:
        self._whole = record(peer).whole_prompt
        self._layer_s: float | None = None
        super().__init__(
            checkpoint, read_with(decoder, peer),
            cca=CCAConfig(), length=length, new_tokens=new_tokens, seed=seed, batch=batch,
        )  # fmt: skip

    @property
    def plan(self) -> str:
        """How it reads."""
        return "one piece" if self._whole else super().plan

    def estimate(self, length: int, budget: float) -> float:
        """Time chunks, or where the prompt is one piece, its first layer."""
        if not self._whole:
            return super().estimate(length, budget)
        self._layer_s = self._layer_seconds(length)
        return self.model.decoder.num_layers * self._layer_s

    def sample(self, length: int, budget: float) -> tuple[float, str]:
        """Time chunks or a layer, and leave a memory of that length."""
        if not self._whole:
            return super().sample(length, budget)
        layers = self.model.decoder.num_layers
        if self._layer_s is None:
            self._layer_s = self._layer_seconds(length)
        seconds = layers * self._layer_s
        memory = self._filled(length - 1)
        self._read(memory, length - 1, length)
        self._memory = memory
        return seconds, f"1 of {layers} layers"

    @torch.inference_mode()
    def _layer_seconds(self, length: int) -> float:
        """Time one layer on the whole prompt; embedding and head are little beside it."""
        ids = self._rows[:, :length]

        def run() -> float:
            memory = self.model.new_memory(self._capacity)
            wait_for(self.model.device)
            start = time.perf_counter()
            self.model.decoder.forward(ids, memory.layers, memory.rotary, last_layer=0)
            wait_for(self.model.device)
            return time.perf_counter() - start

        return steady_seconds(run, compiles=self.model.device.type == "cuda")

    @torch.inference_mode()
    def _filled(self, tokens: int) -> Memory:
        """Make a memory that has seen so many tokens; keys, values and queries are random."""
        memory = self.model.new_memory(self._capacity)
        d = self.model.decoder
        piece = tokens if self._whole else _PIECE
        for layer in memory.layers:
            assert isinstance(layer, PeerLayer)
            for start in range(0, tokens, piece):
                drawn: list[Any] = [
                    torch.empty(
                        self._batch, heads, min(piece, tokens - start), d.head_dim,
                        device=d.device, dtype=d.dtype,
                    ).uniform_(-1, 1)
                    for heads in (d.heads, d.kv_heads, d.kv_heads)
                ]  # fmt: skip
                layer.absorb(*drawn, scale=d.scale)
        return memory
