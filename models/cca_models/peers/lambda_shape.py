"""What StreamingLLM, LM-Infinite and Longformer share: first tokens and a window, in one softmax.

Query i sees key j if i - W < j <= i, and the first S tokens once they have left the window. First
tokens are kept twice while the window still holds them: a peer may see them there and, later, from
afar in different ways.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_models.peers import kernels, oracle, sdpa
from cca_models.peers.past import Past, PeerLayer
from cca_models.peers.turning import tables, turn

# Queries at a time: few enough that a window's neighbours add little, or a kernel's worth.
_MOST, _LEAST = 1024, 64
# Dimensions added to heads for what stands in for first tokens: three parts of a score, and as many
# as kernels want.
_SPARE, _PARTS = 8, 3


class LambdaLayer(PeerLayer):
    """First tokens and a window.

    Args:
        first: First tokens kept, S.
        window: Last tokens kept, W; at least 1.
        frequencies: Inverse rotary frequencies, where queries are turned before they look afar.

    Raises:
        ValueError: If first is negative or window is not positive.
    """

    def __init__(self, *, first: int, window: int, frequencies: Tensor | None = None) -> None:
        super().__init__()
        if first < 0 or window < 1:
            raise ValueError(f"expected first >= 0 and window >= 1, got {first} and {window}")
        self.first_tokens, self.window = first, window
        self._first, self._frequencies = Past(), frequencies

    def far_keys(self, k: Tensor, position: int) -> Tensor:
        """Change first keys to what is seen of them from afar; nothing, by default."""
        return k

    def far_turn(self, positions: Tensor) -> Tensor:
        """Say by how many positions queries at some are turned before they look afar, [L]."""
        raise NotImplementedError

    def far_queries(self, q: Tensor, position: int) -> Tensor | None:
        """Give the queries that look at first tokens from afar; None if they are the same.

        They are not rounded to the dtype of q.
        """
        if self._frequencies is None:
            return None
        return turn(q, *self._turn(position, q.shape[2], q.device))

    def _turn(self, position: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Give by how many positions queries are turned, and the frequencies."""
        by = self.far_turn(torch.arange(position, position + length, device=device))
        return by, self._frequencies_at(device)

    def _frequencies_at(self, device: torch.device) -> Tensor:
        """Give the frequencies; kept where a GPU wants them, so that no step waits for them."""
        assert self._frequencies is not None
        if device.type == "cuda":
            self._frequencies = self._frequencies.to(device)
        return self._frequencies

    def tensors(self) -> dict[str, Tensor]:
        """Give what is held."""
        held = super().tensors()
        if len(self._first):
            held |= {"first_k": self._first.k, "first_v": self._first.v}
        return held

    def take(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> None:
        """Keep new tokens; the first of all twice."""
        new = min(k.shape[2], self.first_tokens - self.seen)
        if new > 0:
            self._first.append(self.far_keys(k[:, :, :new], self.seen), v[:, :, :new])
        self.past.append(k, v)

    def look(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend in one softmax over first tokens and window; as PeerLayer.look."""
        L = q.shape[2]
        if kernels.use_kernels(q):
            return self._by_kernels(q, position, scale)
        if L == 1:
            return self._one(q, position, scale)
        block = max(_LEAST, min(_MOST, self.window))
        parts = [
            self._rows(q[:, :, a : a + block], position + a, scale) for a in range(0, L, block)
        ]
        return torch.cat(parts, 2)

    def _near(self, position: int, length: int) -> tuple[slice, int]:
        """Give where in `past` the windows of queries lie, and how many first tokens lie before.

        The number is that of the last query; earlier ones may see fewer.
        """
        begin = max(0, position - self.window + 1)
        end = position + length
        before = min(len(self._first), max(0, end - self.window))
        return slice(begin - self.past.start, end - self.past.start), before

    def _rows(self, q: Tensor, position: int, scale: float) -> Tensor:
        """Attend from a block of queries."""
        L = q.shape[2]
        near, before = self._near(position, L)
        k, v = self.past.k[:, :, near], self.past.v[:, :, near]
        if position == 0 and self.window >= L:
            return sdpa.dense(q, k, v, scale=scale)
        i = torch.arange(position, position + L, device=q.device)[:, None]
        j = torch.arange(position + L - k.shape[2], position + L, device=q.device)
        mask = (j <= i) & (j > i - self.window)
        if not before:
            return sdpa.masked(q, k, v, mask, scale=scale)
        first_k, first_v = self._first.k[:, :, :before], self._first.v[:, :, :before]
        far = torch.arange(before, device=q.device) <= i - self.window
        turned = self.far_queries(q, position)
        if turned is not None:
            score = oracle.scores(sdpa.wide(turned), sdpa.wide(first_k), scale=scale)
            score = score.masked_fill(~far, -torch.inf)
            return _stood_in_for(q, k, v, mask, score, first_v, scale=scale)
        k, v = torch.cat([first_k, k], 2), torch.cat([first_v, v], 2)
        return sdpa.masked(q, k, v, torch.cat([far, mask], 1), scale=scale)

    def _by_kernels(self, q: Tensor, position: int, scale: float) -> Tensor:
        """Attend from all queries at once; turned queries are rounded to their dtype."""
        from cca_kernels.listed_attention import Columns

        columns = None
        if len(self._first):
            turned = None
            if self._frequencies is not None:
                by, frequencies = self._turn(position, q.shape[2], q.device)
                cos, sin = tables(by, frequencies, device=q.device)
                turned = cos.float(), sin.float()
            places = kernels.first_columns(len(self._first), q.device)
            columns = Columns(places=places, k=self._first.k, v=self._first.v, turn=turned)
        return kernels.in_window(
            q, self.past.k, self.past.v, position=position, start=self.past.start,
            window=self.window, columns=columns, scale=scale,
        )  # fmt: skip

    def _one(self, q: Tensor, position: int, scale: float) -> Tensor:
        """Attend from one query: it sees all that is touched, and no KV head is repeated."""
        near, before = self._near(position, 1)
        k, v = self.past.k[:, :, near], self.past.v[:, :, near]
        score = _scores(q, k)
        if before:
            turned = self.far_queries(q, position)
            far = _scores(q if turned is None else turned, self._first.k[:, :, :before])
            score = torch.cat([far, score], -1)
        weight = (score * scale).softmax(-1).to(v.dtype)
        o = weight[..., before:] @ v
        if before:
            o = o + weight[..., :before] @ self._first.v[:, :, :before]
        return o.flatten(1, 2).unsqueeze(2)

    def forget(self, q: Tensor, position: int, *, scale: float) -> None:
        """Drop what has left the window."""
        self.past.drop(self.seen + 1 - self.window - self.past.start)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Score one query a head, [B, H, 1, D], against keys: [B, KV, H / KV, S].

    In float32 at least: rounded scores would cost a digit of the weights.
    """
    rows = q.squeeze(2).unflatten(1, (k.shape[1], -1))
    return sdpa.wide(rows) @ sdpa.wide(k).transpose(-1, -2)


def _stood_in_for(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, score: Tensor, first_v: Tensor, *, scale: float
) -> Tensor:
    """Attend to keys, and to first ones that are scored already, in one softmax.

    One key stands in for all first ones. Its score is the log of the sum of their exponentials; it
    comes in through spare dimensions of the queries. Its weight comes out through a spare
    dimension of the values. So the long part stays in one fused kernel.

    Args:
        q: [B, H, L, D].
        k: Keys that q itself scores, [B, KV, S, D].
        v: Their values.
        mask: Where they are seen, [L, S].
        score: Of the first keys, float32 at least, [B, H, L, F]; -inf where they are not seen.
        first_v: Their values, [B, KV, F, D].
        scale: Factor on the scores of q and k.

    Returns:
        [B, H, L, D].
    """
    D = q.shape[-1]
    total = score.logsumexp(-1, keepdim=True)  # [B, H, L, 1]
    sees = total > -torch.inf
    weight = torch.where(sees, (score - total).exp(), 0)
    # In half precision one number would round the score; its remainders hold what is lost.
    rest = torch.where(sees, total, 0) / scale
    extra = q.new_zeros(*q.shape[:-1], _SPARE)
    for n in range(_PARTS):
        extra[..., n : n + 1] = rest
        rest = rest - extra[..., n : n + 1]
    stand_k, stand_v = k.new_zeros(2, D + _SPARE).unbind()
    stand_k[D : D + _PARTS] = 1
    stand_v[D] = 1
    B, KV = k.shape[:2]
    k, v = (
        torch.cat([stand.expand(B, KV, 1, -1), F.pad(t, (0, _SPARE))], 2)
        for stand, t in ((stand_k, k), (stand_v, v))
    )
    q, mask = torch.cat([q, extra], -1), torch.cat([sees[0, 0], mask], 1)
    o = sdpa.masked(q, k, v, mask, scale=scale)
    first = weight @ oracle.spread(first_v, q.shape[1]).to(weight.dtype)
    return o[..., :D] + o[..., D : D + 1] * first.to(o.dtype)
