"""What memories of peers share: keys and values kept in buffers that grow, and the engine's hook.

Shapes: q [B, H, L, D]; k, v [B, KV, L, D], rotated as the engine rotates them. All rows of a batch
stand at the same position.
"""

from collections.abc import Callable, Mapping
from typing import Self

from torch import Tensor

from cca_models.config import CCAConfig
from cca_models.layer_memory import Probe

# Room behind the tokens held, so that a decode step appends in place.
_SLACK = 256


class Past:
    """Keys and values of a run of tokens, at the end of which more are appended.

    Attributes:
        start: Position of the first token held.
        expected: Tokens that it will hold in all; 0 if nobody knows. Buffers are made for them.
    """

    def __init__(self) -> None:
        self.start, self.expected = 0, 0
        self._k: Tensor | None = None
        self._v: Tensor | None = None
        self._begin = self._end = 0
        self._borrowed = False

    def __len__(self) -> int:
        return self._end - self._begin

    @property
    def k(self) -> Tensor:
        """Keys held, [B, KV, S, D]; a view."""
        assert self._k is not None, "nothing is held yet"
        return self._k[:, :, self._begin : self._end]

    @property
    def v(self) -> Tensor:
        """Values held, like k."""
        assert self._v is not None, "nothing is held yet"
        return self._v[:, :, self._begin : self._end]

    def append(self, k: Tensor, v: Tensor) -> None:
        """Take in more tokens."""
        L = k.shape[2]
        if self._k is None or self._borrowed or self._end + L > self._k.shape[2]:
            rest = self.expected - len(self) - L
            self._move(k, rest if rest >= 0 and self.expected else max(_SLACK, len(self) // 2))
        assert self._k is not None and self._v is not None
        self._k[:, :, self._end : self._end + L] = k
        self._v[:, :, self._end : self._end + L] = v
        self._end += L

    def drop(self, tokens: int) -> None:
        """Forget the first tokens held, so many of them; none if it is negative."""
        tokens = max(0, min(tokens, len(self)))
        self._begin += tokens
        self.start += tokens
        if self._k is not None and self._k.shape[2] > 2 * len(self) + 2 * _SLACK:
            # A long chunk leaves a long buffer behind.
            self._move(self._k[:, :, :0], _SLACK)

    def fork(self) -> "Past":
        """Make a second one that goes its own way; nothing is copied until either grows."""
        twin = Past()
        twin.start, twin._k, twin._v = self.start, self._k, self._v
        twin.expected = self.expected
        twin._begin, twin._end = self._begin, self._end
        # Both would append to the same places.
        twin._borrowed = self._borrowed = True
        return twin

    def map(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply a change of rows or of device."""
        if self._k is not None:
            k, v = change(self.k), change(self.v)
            self._k, self._v, self._begin, self._end = k, v, 0, k.shape[2]
            self._borrowed = True

    def _move(self, new: Tensor, room: int) -> None:
        """Move what is held to buffers with room for `new` and more."""
        B, KV, L, D = new.shape
        held = len(self)
        k, v = (new.new_empty(B, KV, held + L + room, D) for _ in range(2))
        if held:
            k[:, :, :held], v[:, :, :held] = self.k, self.v
        self._k, self._v, self._begin, self._end, self._borrowed = k, v, 0, held, False


class PeerLayer:
    """The memory of one layer: a cca_models.layer_memory.Layer that keeps every token, by default.

    A peer overrides `look`, and where it keeps less, `forget`.

    Attributes:
        config: What the engine was asked for; peers have settings of their own.
        seen: Tokens read.
        past: Keys and values.
    """

    def __init__(self) -> None:
        self.config = CCAConfig()
        self.seen = 0
        self.past = Past()

    @property
    def pooled(self) -> int:
        """Groups pooled: none."""
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes of what is held; room for more is not counted."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Give what is held."""
        return {"k": self.past.k, "v": self.past.v} if len(self.past) else {}

    def expect(self, tokens: int) -> None:
        """Make room for so many tokens at once, where all are kept."""
        for value in vars(self).values():
            if isinstance(value, Past):
                value.expected = tokens

    def restore(self, tensors: Mapping[str, Tensor], *, seen: int) -> None:
        """Take over saved tensors; they are shared, never written to.

        Raises:
            NotImplementedError: Where a peer keeps more than keys and values.
        """
        if set(tensors) != {"k", "v"}:
            raise NotImplementedError(f"{type(self).__name__} cannot be restored")
        self.seen, self.past = seen, Past()
        self.past.append(tensors["k"], tensors["v"])
        self.past.start = seen - len(self.past)

    def fork(self) -> Self:
        """Make a second memory that goes its own way from here; nothing large is copied."""
        twin = type(self).__new__(type(self))
        # Tensors are replaced, never written to; only a Past is.
        twin.__dict__.update(
            (name, value.fork() if isinstance(value, Past) else value)
            for name, value in vars(self).items()
        )
        return twin

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply a change of rows (select, repeat) or of device to all that is held."""
        for name, value in vars(self).items():
            if isinstance(value, Past):
                value.map(change)
            elif isinstance(value, Tensor) and value.dim() == 4:  # [B, ...]; tables are smaller
                setattr(self, name, change(value))
            elif isinstance(value, tuple) and value and isinstance(value[0], Tensor):
                setattr(self, name, tuple(change(part) for part in value))

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
        """Take in new tokens and let them attend; as cca_models.layer_memory.LayerMemory.attend.

        Raises:
            NotImplementedError: If a probe is given: peers locate nothing.
        """
        if probe is not None:
            raise NotImplementedError("peers cannot be probed")
        position = self.seen
        self.take(q, k, v, scale=scale)
        self.seen += k.shape[2]
        if last_only:
            q, position = q[:, :, -1:], self.seen - 1
        o = self.look(q, position, scale=scale)
        self.forget(q, position, scale=scale)
        return o

    def absorb(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> None:
        """Take in new tokens that nobody attends from: for memories that only measure."""
        position = self.seen
        self.take(q, k, v, scale=scale)
        self.seen += k.shape[2]
        self.forget(q, position, scale=scale)

    def take(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> None:
        """Keep new tokens; q as in `attend`, before `seen` has moved on."""
        self.past.append(k, v)

    def look(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend from queries to what is held.

        Args:
            q: Rotated queries, [B, H, L, D]; the last one is the last token held.
            position: Position of the first.
            scale: Factor on the scores.

        Returns:
            [B, H, L, D].
        """
        raise NotImplementedError

    def forget(self, q: Tensor, position: int, *, scale: float) -> None:
        """Let go of what no later token needs; called after `look`, with the same."""
