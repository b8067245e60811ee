"""The CCA memory of one layer: core tokens of the past and the raw tail.

Shapes: q [B, H, L, D]; k, v [B, KV, L, D]; core tokens [B, KV, M, D]. All rows of a batch stand at
the same position; batches with padding are split by cca_models.cache.

A fork shares the core tokens with its origin and copies nothing until it has run a whole window
past the fork: what it pools in between is not visible yet and waits in a list of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cca_kernels import attend, decode, group_anchors, pool_groups
from cca_models.config import CCAConfig

# What a layer keeps, under the names that it is saved by.
KEPT = ("core_k", "core_v", "raw_k", "raw_v")
# Room behind the raw tail, so that a decode step appends in place and moves the tail only rarely.
_SLACK = 256
# Up to this many new tokens the few-query operation is the faster one.
_FEW = 16


@dataclass(frozen=True, slots=True)
class Sight:
    """What a chunk of queries looked at: for probes, see LayerMemory.attend.

    The keys are views into a memory's buffers and hold during the call only: what is read later
    may be written over them. A probe that keeps keys must copy them; the queries may be kept.

    Attributes:
        q: The rotated queries, [B, H, L, D].
        position: Position of the first query.
        core_k: Core keys that the last query sees, [B, KV, M, D].
        raw_k: Raw keys up to the last query, [B, KV, S, D].
    """

    q: Tensor
    position: int
    core_k: Tensor
    raw_k: Tensor


Probe = Callable[[Sight], None]


class Layer(Protocol):
    """What a memory and a decoder need of the memory of a layer, however it keeps its tokens."""

    config: CCAConfig
    seen: int

    @property
    def pooled(self) -> int:
        """Groups pooled so far, visible or not."""

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held; room for more is not counted."""

    def tensors(self) -> dict[str, Tensor]:
        """Give what must be saved, under the names of KEPT."""

    def restore(self, tensors: dict[str, Tensor], *, seen: int) -> None:
        """Take over saved tensors; they are shared, never written to."""

    def fork(self) -> "Layer":
        """Make a second memory that goes its own way from here; nothing large is copied."""

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        last_only: bool = False,
        probe: Probe | None = None,
    ) -> Tensor:
        """Take in new tokens and let them attend to everything up to themselves."""


class LayerMemory:
    """Core tokens and raw tail of one layer.

    Args:
        config: Group size and window.
        capacity: Tokens it will have to hold, if known: avoids growing copies. More still fit.
    """

    def __init__(self, config: CCAConfig, *, capacity: int = 0) -> None:
        self.config = config
        self.seen = 0
        self._capacity = -(-capacity // config.group_size)
        self._core_k: Tensor | None = None
        self._core_v: Tensor | None = None
        self._cores = 0  # valid core tokens in the buffers
        self._borrowed = False  # the core buffers belong to another memory: do not write to them
        self._late: list[tuple[Tensor, Tensor]] = []  # pooled, not in the buffers yet
        self._raw_k: Tensor | None = None
        self._raw_v: Tensor | None = None
        self._begin = self._end = 0  # the raw tail within its buffers
        self._raw_borrowed = False

    @property
    def pooled(self) -> int:
        """Groups pooled so far, visible or not."""
        return self._cores + sum(k.shape[2] for k, _ in self._late)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held; room for more is not counted."""
        if self._raw_k is None:
            return 0
        B, KV, _, D = self._raw_k.shape
        slots = self.pooled + self._end - self._begin
        return 2 * B * KV * slots * D * self._raw_k.element_size()

    def tensors(self) -> dict[str, Tensor]:
        """Give what must be saved, under the names of KEPT."""
        if self._raw_k is None or self._raw_v is None:
            return {}
        core_k, core_v = self._visible(self.pooled)
        raw = slice(self._begin, self._end)
        return {
            "core_k": core_k,
            "core_v": core_v,
            "raw_k": self._raw_k[:, :, raw],
            "raw_v": self._raw_v[:, :, raw],
        }

    def restore(self, tensors: dict[str, Tensor], *, seen: int) -> None:
        """Take over saved tensors; they are shared, never written to."""
        self.seen = seen
        self._core_k, self._core_v = tensors["core_k"], tensors["core_v"]
        self._cores = self._core_k.shape[2]
        self._raw_k, self._raw_v = tensors["raw_k"], tensors["raw_v"]
        self._begin, self._end = 0, self._raw_k.shape[2]
        self._borrowed = self._raw_borrowed = True
        self._late = []

    def fork(self) -> "LayerMemory":
        """Make a second memory that goes its own way from here; nothing large is copied."""
        twin = LayerMemory(self.config, capacity=self._capacity * self.config.group_size)
        twin.seen = self.seen
        twin._core_k, twin._core_v, twin._cores = self._core_k, self._core_v, self._cores
        twin._late = list(self._late)
        twin._raw_k, twin._raw_v = self._raw_k, self._raw_v
        twin._begin, twin._end = self._begin, self._end
        # The origin may go on writing behind what the twin sees of the core tokens. The raw tail
        # has both writing to the same places, so both must leave it.
        twin._borrowed = twin._raw_borrowed = self._raw_borrowed = True
        return twin

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply a change of rows (select, repeat) or of device to all tensors."""
        if self._raw_k is None or self._raw_v is None:
            return
        core_k, core_v = self._visible(self.pooled)
        self._core_k, self._core_v = change(core_k), change(core_v)
        self._cores, self._late = self._core_k.shape[2], []
        raw = slice(self._begin, self._end)
        self._raw_k, self._raw_v = change(self._raw_k[:, :, raw]), change(self._raw_v[:, :, raw])
        self._begin, self._end = 0, self._raw_k.shape[2]
        self._borrowed = self._raw_borrowed = True

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        last_only: bool = False,
        probe: Probe | None = None,
    ) -> Tensor:
        """Take in new tokens and let them attend to everything up to themselves.

        Args:
            q: Rotated queries, [B, H, L, D].
            k: Rotated keys, [B, KV, L, D].
            v: Values, like k.
            scale: Factor on the scores.
            last_only: Let the last token alone attend; all are taken in.
            probe: Called with what the queries looked at, before old raw tokens are dropped.

        Returns:
            The attention output, [B, H, L, D], or [B, H, 1, D] if last_only.
        """
        config, position, L = self.config, self.seen, q.shape[2]
        self._append_raw(k, v)
        assert self._raw_k is not None and self._raw_v is not None
        raw_k = self._raw_k[:, :, self._begin : self._end]
        raw_v = self._raw_v[:, :, self._begin : self._end]
        self.seen += L
        self._pool(q, raw_k, raw_v, scale=scale)
        core_k, core_v = self._visible(config.visible_cores(self.seen - 1))
        if last_only:
            q, position, L = q[:, :, -1:], self.seen - 1, 1
        run = decode if L <= _FEW else attend
        o, _ = run(
            q, raw_k, raw_v, core_k, core_v, position=position,
            group_size=config.group_size, window=config.window, scale=scale,
        )  # fmt: skip
        if probe is not None:
            probe(Sight(q, position, core_k, raw_k))
        self._drop_raw()
        return o

    def _pool(self, q: Tensor, raw_k: Tensor, raw_v: Tensor, *, scale: float) -> None:
        """Fold the groups whose last token has just come in."""
        G, L = self.config.group_size, q.shape[2]
        first, end = self.pooled, self.seen // G
        if end == first:
            return
        position = self.seen - L
        raw_position = self.seen - raw_k.shape[2]
        last_tokens = q[:, :, first * G + G - 1 - position :: G][:, :, : end - first]
        anchor = group_anchors(last_tokens, kv_heads=raw_k.shape[1])
        span = slice(first * G - raw_position, end * G - raw_position)
        core = pool_groups(raw_k[:, :, span], raw_v[:, :, span], anchor, group_size=G, scale=scale)
        self._late.append(core)
        if not self._borrowed and self._core_k is not None:
            assert self._core_v is not None
            if self.pooled <= self._core_k.shape[2]:
                self._settle(self._core_k, self._core_v)

    def _settle(self, core_k: Tensor, core_v: Tensor) -> None:
        """Move the late core tokens into buffers that have the room."""
        for k, v in self._late:
            end = self._cores + k.shape[2]
            core_k[:, :, self._cores : end] = k
            core_v[:, :, self._cores : end] = v
            self._cores = end
        self._late = []

    def _visible(self, cores: int) -> tuple[Tensor, Tensor]:
        """Give the first core tokens; makes own, larger buffers where the present ones end."""
        if self._core_k is None or self._core_v is None or cores > self._cores:
            assert self._raw_k is not None
            B, KV, _, D = self._raw_k.shape
            enough = self.pooled <= self._capacity
            room = self._capacity if enough else self.pooled + self.pooled // 2
            core_k = self._raw_k.new_empty(B, KV, room, D)
            core_v = self._raw_k.new_empty(B, KV, room, D)
            if self._core_k is not None and self._core_v is not None:
                core_k[:, :, : self._cores] = self._core_k[:, :, : self._cores]
                core_v[:, :, : self._cores] = self._core_v[:, :, : self._cores]
            self._core_k, self._core_v, self._borrowed = core_k, core_v, False
            self._settle(core_k, core_v)
        return self._core_k[:, :, :cores], self._core_v[:, :, :cores]

    def _append_raw(self, k: Tensor, v: Tensor) -> None:
        """Append new raw tokens, in place where there is room."""
        B, KV, L, D = k.shape
        held = self._end - self._begin
        if self._raw_k is None or self._raw_borrowed or self._end + L > self._raw_k.shape[2]:
            self._move_raw(k.new_empty(B, KV, held + L + _SLACK, D))
        assert self._raw_k is not None and self._raw_v is not None
        self._raw_k[:, :, self._end : self._end + L] = k
        self._raw_v[:, :, self._end : self._end + L] = v
        self._end += L

    def _move_raw(self, raw_k: Tensor) -> None:
        """Move the raw tail to the front of new buffers shaped like raw_k."""
        raw_v = torch.empty_like(raw_k)
        held = self._end - self._begin
        if held and self._raw_k is not None and self._raw_v is not None:
            raw_k[:, :, :held] = self._raw_k[:, :, self._begin : self._end]
            raw_v[:, :, :held] = self._raw_v[:, :, self._begin : self._end]
        self._raw_k, self._raw_v, self._raw_borrowed = raw_k, raw_v, False
        self._begin, self._end = 0, held

    def _drop_raw(self) -> None:
        """Forget the raw tokens that no later token sees one by one."""
        assert self._raw_k is not None
        keep = self.seen - self.config.raw_start(self.seen)
        self._begin = self._end - keep
        B, KV, room, D = self._raw_k.shape
        if room > keep + 2 * _SLACK and room > 2 * keep:
            # A long chunk leaves a long buffer behind; the next one brings its own.
            self._move_raw(self._raw_k.new_empty(B, KV, keep + _SLACK, D))
