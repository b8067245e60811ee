"""The CCA memory of one layer in buffers whose addresses stay: for kernels, and for CUDA graphs.

Shapes and meaning as in cca_models.layer_memory, whose interface this is. Everything but the
buffers follows from two numbers: `seen`, and the position of the first raw slot. Group g lies in
core slot g, position p in raw slot p - raw_position. So going back is setting `seen`, what lies
behind it is free to be overwritten, and a decode kernel finds its place from a position alone.

Core tokens get room for the whole document at once: nothing is ever concatenated, and a memory
that fills a card is never copied. A fork reads its origin's core buffers and writes what it pools
itself into small buffers of its own, `late`: no token sees those groups before it stands a window
past the fork. Only a fork that gets so far copies the core tokens. Raw tokens are written in place;
a long chunk goes through buffers that are thrown away after it, so that room for it is needed once
and not in every layer.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cca_kernels import attend, decode
from cca_models.config import CCAConfig

if TYPE_CHECKING:
    from cca_models.layer_memory import Probe

# Raw slots behind the longest tail: a decode step appends in place and moves the tail this rarely.
_SLACK = 128
# Up to this many new tokens the few-query operation is the faster one.
_FEW = 16

Pair = tuple[Tensor, Tensor]


class StaticLayerMemory:
    """Core tokens and raw tail of one layer.

    Args:
        config: Group size and window.
        capacity: Tokens it will have to hold: their core tokens get room at once. More still fit.

    Attributes:
        seen: Tokens read.
        raw_position: Position of the first raw slot.
        moved: Set when a buffer takes another's place; who keeps addresses resets it.
    """

    def __init__(self, config: CCAConfig, *, capacity: int = 0) -> None:
        self.config = config
        self.seen = 0
        self.raw_position = 0
        self.moved = True
        self._capacity = capacity
        self._core: Pair | None = None
        self._late: Pair | None = None  # own groups from _first_late on, where _core is another's
        self._first_late = 0
        self._raw: Pair | None = None
        self._raw_borrowed = False

    @property
    def pooled(self) -> int:
        """Groups pooled so far, visible or not."""
        return self.seen // self.config.group_size

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held; room for more is not counted."""
        if self._raw is None:
            return 0
        B, KV, _, D = self._raw[0].shape
        slots = self.pooled + self.seen - self.config.raw_start(self.seen)
        return 2 * B * KV * slots * D * self._raw[0].element_size()

    def tensors(self) -> dict[str, Tensor]:
        """Give what must be saved, under the names of layer_memory.KEPT; copied where in parts."""
        if self._raw is None or self._core is None:
            return {}
        core_k, core_v = (core[:, :, : self.pooled] for core in self._core)
        own = self.pooled - self._first_late
        if self._late is not None and own:
            # Leaving the origin for this would take room for the whole document in every layer.
            core_k, core_v = (
                torch.cat([core[:, :, : self._first_late], late[:, :, :own]], dim=2)
                for core, late in zip(self._core, self._late, strict=True)
            )
        start = self.config.raw_start(self.seen) - self.raw_position
        raw = slice(start, self.seen - self.raw_position)
        return {
            "core_k": core_k,
            "core_v": core_v,
            "raw_k": self._raw[0][:, :, raw],
            "raw_v": self._raw[1][:, :, raw],
        }

    def restore(self, tensors: dict[str, Tensor], *, seen: int) -> None:
        """Take over saved tensors; they are shared, never written to."""
        self.seen = seen
        self.raw_position = self.config.raw_start(seen)
        self._core, self._raw = _pair(tensors, "core"), _pair(tensors, "raw")
        self._raw_borrowed = self.moved = True
        self._begin_late()

    def fork(self) -> "StaticLayerMemory":
        """Make a second memory that goes its own way from here; nothing large is copied."""
        twin = StaticLayerMemory(self.config, capacity=self._capacity)
        twin.seen, twin.raw_position = self.seen, self.raw_position
        twin._core, twin._raw = self._core, self._raw
        if self._late is not None:
            twin._late = (self._late[0].clone(), self._late[1].clone())
            twin._first_late = self._first_late
        elif self._core is not None:
            twin._begin_late()
        # The origin may go on writing core tokens behind what the twin sees of them. The raw tail
        # has both writing to the same slots, so both must leave it.
        twin._raw_borrowed = self._raw_borrowed = True
        return twin

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        last_only: bool = False,
        probe: "Probe | None" = None,
    ) -> Tensor:
        """Take in new tokens and let them attend; as LayerMemory.attend."""
        raw = self.append(k)
        raw.new_k.copy_(k)
        raw.new_v.copy_(v)
        return self.look(raw, q, scale=scale, last_only=last_only, probe=probe)

    def append(self, like: Tensor) -> "RawTokens":
        """Make room for new raw tokens.

        Args:
            like: A tensor of their shape, dtype and device, [B, KV, L, D].

        Returns:
            Where to write their keys and values; then call `look` with it.
        """
        L = like.shape[2]
        held = self.seen - self.config.raw_start(self.seen)
        end = self.seen - self.raw_position
        if self._raw is None:
            # All slots at once: the first chunk pools into them already.
            core = self._new_pair(like, -(-self._capacity // self.config.group_size))
            self._raw = self._new_pair(like, self._raw_room)
            self._core, self.moved = core, True
        if self._raw_borrowed or end + L > self._raw[0].shape[2]:
            if held + L <= self._raw_room:
                self._move_raw(self._new_pair(like, self._raw_room))
                end = held
            else:
                passing = self._new_pair(like, held + L)
                self._copy_tail(passing)
                return RawTokens(passing[0], passing[1], held, L, passing=True)
        return RawTokens(self._raw[0][:, :, : end + L], self._raw[1][:, :, : end + L], end, L)

    def look(
        self,
        raw: "RawTokens",
        q: Tensor,
        *,
        scale: float,
        last_only: bool = False,
        probe: "Probe | None" = None,
    ) -> Tensor:
        """Pool the groups that the new tokens finish, and let them attend.

        Args:
            raw: From `append`, with keys and values written.
            q: Rotated queries of the new tokens, [B, H, L, D].
            scale: Factor on the scores.
            last_only: Let the last token alone attend.
            probe: Called with what the queries looked at.

        Returns:
            The attention output, [B, H, L, D], or [B, H, 1, D] if last_only.
        """
        config, position, L = self.config, self.seen, raw.new
        self._pool(raw, q, scale=scale)
        self.seen += L
        core_k, core_v = self._visible(config.visible_cores(self.seen - 1))
        if last_only:
            q, position, L = q[:, :, -1:], self.seen - 1, 1
        run = decode if L <= _FEW else attend
        o, _ = run(
            q, raw.k, raw.v, core_k, core_v, position=position,
            group_size=config.group_size, window=config.window, scale=scale,
        )  # fmt: skip
        if probe is not None:
            from cca_models.layer_memory import Sight

            probe(Sight(q, position, core_k, raw.k))
        if raw.passing:
            self._keep_tail(raw)
        return o

    def make_room(self) -> None:
        """Make room for one more token, in buffers that a kernel may write to by address."""
        assert self._raw is not None
        if self._raw_borrowed or self.seen - self.raw_position == self._raw[0].shape[2]:
            self._move_raw(self._new_pair(self._raw[0], self._raw_room))
        G = self.config.group_size
        if (self.seen + 1) % G == 0:
            self._room_for_cores(self.pooled + 1)
        if self._late is not None and self.config.visible_cores(self.seen) > self._first_late:
            self._own()

    def addresses(self) -> tuple[list[int], list[int]]:
        """Give the rows of the tables that the decode kernels read: what is read, what is written.

        Returns:
            Twice the addresses of core_k, core_v, raw_k, raw_v, the elements from head to head of
            core and raw buffers, 0, 0. They differ for a fork: what it pools goes to its own few
            slots, whose address is moved so that group g is slot g there, too.
        """
        assert self._core is not None and self._raw is not None
        core, raw = self._core, self._raw
        slots = [core[0].stride(1), raw[0].stride(1), 0, 0]
        tail = [raw[0].data_ptr(), raw[1].data_ptr()]
        read = [core[0].data_ptr(), core[1].data_ptr(), *tail, *slots]
        if self._late is None:
            return read, list(read)
        late = self._late
        back = self._first_late * late[0].stride(2) * late[0].element_size()
        moved = [late[0].data_ptr() - back, late[1].data_ptr() - back]
        return read, [*moved, *tail, late[0].stride(1), *slots[1:]]

    @property
    def _raw_room(self) -> int:
        """Slots of the raw buffers: the longest tail, and some to append to."""
        return self.config.window + self.config.group_size + _SLACK

    def _pool(self, raw: "RawTokens", q: Tensor, *, scale: float) -> None:
        """Fold the groups whose last token is new, straight into their slots."""
        from cca_kernels.pooling import pool_queries_fwd

        G = self.config.group_size
        first, end = self.pooled, (self.seen + raw.new) // G
        if end == first:
            return
        self._room_for_cores(end)
        offset = raw.k.shape[2] - raw.new - self.seen  # of a position in the raw keys
        span = slice(first * G + offset, end * G + offset)
        core, shift = (self._core, 0) if self._late is None else (self._late, self._first_late)
        assert core is not None
        slots = slice(first - shift, end - shift)
        pool_queries_fwd(
            q, raw.k[:, :, span], raw.v[:, :, span],
            first=first * G + G - 1 - self.seen, group_size=G, scale=scale,
            out=(core[0][:, :, slots], core[1][:, :, slots]),
        )  # fmt: skip

    def _room_for_cores(self, cores: int) -> None:
        """Make sure that this many groups have a slot that may be written to."""
        assert self._core is not None
        if self._late is not None:
            if cores - self._first_late <= self._late[0].shape[2]:
                return
            self._own(cores)
        elif cores > self._core[0].shape[2]:
            self._grow(cores + cores // 2, held=self.pooled)

    def _visible(self, cores: int) -> Pair:
        """Give the first core tokens."""
        if self._late is not None and cores > self._first_late:
            self._own(cores)
        assert self._core is not None
        return self._core[0][:, :, :cores], self._core[1][:, :, :cores]

    def _own(self, cores: int = 0) -> None:
        """Leave the origin's core buffers for own ones."""
        assert self._core is not None and self._late is not None
        late, first, held = self._late, self._first_late, self.pooled
        planned = -(-self._capacity // self.config.group_size)
        self._grow(max(planned, cores, held), held=first)
        for mine, other in zip(self._core, late, strict=True):
            mine[:, :, first:held] = other[:, :, : held - first]
        self._late = None  # last: where there is no room, the origin must not be written to

    def _grow(self, room: int, *, held: int) -> None:
        """Move the first core tokens into new buffers."""
        assert self._core is not None
        core = self._new_pair(self._core[0], room)
        for new, old in zip(core, self._core, strict=True):
            new[:, :, :held] = old[:, :, :held]
        self._core, self.moved = core, True

    def _begin_late(self) -> None:
        """Write further groups to buffers of one's own: those before belong to another memory."""
        assert self._core is not None
        self._first_late = self.pooled
        # Groups that are pooled before the first of them is seen.
        room = self.config.window // self.config.group_size + 2
        self._late = self._new_pair(self._core[0], room)

    def _move_raw(self, raw: Pair) -> None:
        """Move the raw tail to the front of new buffers."""
        self._copy_tail(raw)
        self._raw, self._raw_borrowed, self.moved = raw, False, True
        self.raw_position = self.config.raw_start(self.seen)

    def _copy_tail(self, raw: Pair) -> None:
        assert self._raw is not None
        start = self.config.raw_start(self.seen)
        held = self.seen - start
        if held:
            span = slice(start - self.raw_position, self.seen - self.raw_position)
            for new, old in zip(raw, self._raw, strict=True):
                new[:, :, :held] = old[:, :, span]

    def _keep_tail(self, raw: "RawTokens") -> None:
        """Keep the end of a long chunk's raw tokens."""
        assert self._raw is not None
        if self._raw_borrowed:
            self._raw, self._raw_borrowed = self._new_pair(self._raw[0], self._raw_room), False
            self.moved = True
        self.raw_position = self.config.raw_start(self.seen)
        held = self.seen - self.raw_position
        self._raw[0][:, :, :held] = raw.k[:, :, raw.k.shape[2] - held :]
        self._raw[1][:, :, :held] = raw.v[:, :, raw.v.shape[2] - held :]

    @staticmethod
    def _new_pair(like: Tensor, slots: int) -> Pair:
        B, KV, _, D = like.shape
        shape = (B, KV, slots, D)
        return like.new_empty(shape), like.new_empty(shape)


class RawTokens:
    """The raw tokens of a chunk: what is still seen of the past, and the new ones.

    Attributes:
        k: Keys, [B, KV, S, D], the new ones last.
        v: Values, like k.
        new: New tokens.
        new_k: Where the new keys go, [B, KV, new, D].
        new_v: Where the new values go.
        passing: Whether the buffers are thrown away after the chunk.
    """

    def __init__(self, k: Tensor, v: Tensor, held: int, new: int, *, passing: bool = False) -> None:
        self.k, self.v, self.new, self.passing = k, v, new, passing
        self.new_k, self.new_v = k[:, :, held:], v[:, :, held:]


def _pair(tensors: dict[str, Tensor], kind: str) -> Pair:
    """Take keys and values as they are, or copied where the kernels could not load them."""
    k, v = (tensors[f"{kind}_{name}"].contiguous() for name in "kv")
    return k.clone() if k.data_ptr() % 16 else k, v.clone() if v.data_ptr() % 16 else v
