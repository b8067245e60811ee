"""MInference: over the prompt, every head sees some columns and some diagonals ("vertical-slash").

The last queries' attention to all keys is computed in full. Its sums by key and by distance say
which keys (columns) and which distances (diagonals) the head's queries see; the first keys and the
shortest distances are always among them. The mask is exact to the token, where the authors' kernel
widens diagonals to blocks. Memory at the prompt is O(L * rows), not O(L * L). Decoding is full
attention, as in the release.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_kernels.devices import on_device
from cca_models.peers import kernels, oracle, sdpa
from cca_models.peers.a_shape import A_SHAPE
from cca_models.peers.prompt_sparse import PromptSparseLayer, gathered, places, some_heads
from cca_models.peers.records import AttentionRecord, Place
from cca_models.peers.sdpa import product

# Queries at a time, and keys that are gathered together.
_ROWS, _KEYS = 128, 64
# Scores of the last queries held at a time: 512 MiB in float32, several times over.
_SCORES = 1 << 27


class VerticalSlashLayer(PromptSparseLayer):
    """Columns and diagonals, chosen per query head.

    Args:
        columns: Keys seen by all later queries; no fewer than `sinks`.
        diagonals: Distances seen by all queries; no fewer than `recent`.
        last: Last queries of the prompt, by whose attention is chosen.
        sinks: First keys, always chosen.
        recent: Shortest distances, always chosen; 0 is one of them.

    Raises:
        ValueError: If `last` or `recent` is less than 1.
    """

    def __init__(self, *, columns: int, diagonals: int, last: int, sinks: int, recent: int) -> None:
        super().__init__()
        if last < 1 or recent < 1:
            raise ValueError(f"expected last and recent of at least 1, got {last} and {recent}")
        self._columns, self._diagonals = max(columns, sinks), max(diagonals, recent)
        self._last, self._sinks, self._recent = last, sinks, recent
        self._choice: tuple[Tensor, Tensor] | None = None

    def choose(self, q: Tensor, *, scale: float) -> None:
        """Choose columns [B, H, columns] and, as booleans by distance [B, H, N], diagonals."""
        k = self.past.k
        N, group = k.shape[2], q.shape[1] // k.shape[1]
        if max(self._columns, self._diagonals) >= N:
            # All columns or all diagonals are chosen: this is full attention.
            self._choice = None
            return
        columns, diagonals = [], []
        # A few KV heads at a time bound the memory.
        step = max(1, _SCORES // (q.shape[0] * group * self._last * N))
        for head in range(0, k.shape[1], step):
            rows = q[:, head * group : (head + step) * group, -self._last :]
            by_key, by_distance = _sums(rows, k[:, head : head + step], scale=scale)
            by_key[..., : self._sinks] = torch.inf
            by_distance[..., : self._recent] = torch.inf
            columns.append(by_key.topk(self._columns).indices)
            chosen = by_distance.topk(self._diagonals).indices
            diagonals.append(torch.zeros_like(by_key, dtype=torch.bool).scatter(-1, chosen, True))
        self._choice = torch.cat(columns, 1), torch.cat(diagonals, 1)

    def forget(self, q: Tensor, position: int, *, scale: float) -> None:
        """Let go of the choice."""
        super().forget(q, position, scale=scale)
        self._choice = None

    def look_in_prompt(self, q: Tensor, position: int, *, scale: float) -> Tensor:
        """Attend by blocks of queries, to gathered blocks of keys and the columns."""
        k, v, L = self.past.k, self.past.v, q.shape[2]
        if self._choice is None:
            return sdpa.dense(q, k, v, scale=scale)
        columns, diagonals = self._choice
        if kernels.use_kernels(q):
            return _by_kernels(q, k, v, columns, diagonals, position, scale=scale)
        end = position + L
        # Later queries need no fewer blocks, so the last ones need most.
        blocks = _needed(diagonals, max(position, end - _ROWS), end).sum(-1).max()
        keys = min(end, int(blocks) * _KEYS + columns.shape[-1])
        out = torch.empty_like(q)
        for kv, heads in some_heads(q, k.shape[1], rows=_ROWS, keys=keys):
            for a in range(0, L, _ROWS):
                rows = slice(a, min(a + _ROWS, L))
                out[:, heads, rows] = _vertical_slash(
                    q[:, heads, rows], k[:, kv], v[:, kv], columns[:, heads], diagonals[:, heads],
                    position + a, scale=scale,
                )  # fmt: skip
        return out


def _sums(q: Tensor, k: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Sum the last queries' weights by key and by distance, each [B, H, N]; k [B, KV, N, D]."""
    n, N = q.shape[2], k.shape[2]
    score = product(q, k).mul_(scale)
    future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    score[..., N - n :].masked_fill_(future, -torch.inf)
    weight = score.softmax(-1)
    # Every row is a token later than the one above: laid out in rows one longer than they are,
    # equal distances stand under each other.
    sheared = F.pad(F.pad(weight, (n - 1, 0)).flatten(-2), (0, n))
    by_distance = sheared.unflatten(-1, (n, N + n))[..., :N].sum(-2).flip(-1)
    return weight.sum(-2), by_distance


def _needed(diagonals: Tensor, begin: int, end: int) -> Tensor:
    """Say which blocks of keys a diagonal crosses on queries begin..end, [B, H, end / _KEYS]."""
    before = F.pad(diagonals.cumsum(-1), (1, 0))
    first = torch.arange(0, end, _KEYS, device=diagonals.device)
    return before[..., end - first] > before[..., (begin - first - _KEYS + 1).clamp(min=0)]


def _by_kernels(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    columns: Tensor,
    diagonals: Tensor,
    position: int,
    *,
    scale: float,
) -> Tensor:
    """Attend to the tiles that a diagonal crosses, and to columns."""
    from cca_kernels.listed_attention import Columns, listed_attention
    from cca_kernels.tile_lists import list_tiles

    tile = kernels.tile_for(q)
    assert tile is not None, "nothing has to be divided"
    end, b = position + q.shape[2], tile.block_k
    # Distances of a tile: from its first query to its last key, from its last to its first.
    first = torch.arange(
        position // tile.block_q * tile.block_q, end, tile.block_q, device=q.device
    )
    key = torch.arange(0, end, b, device=q.device)
    nearest, farthest = first[:, None] - key - b + 1, first[:, None] + tile.block_q - 1 - key
    before = F.pad(diagonals.cumsum(-1, dtype=torch.int32), (1, 0))
    N = diagonals.shape[-1]
    count = before[..., (farthest + 1).clamp(0, N)] - before[..., nearest.clamp(0, N)]
    # A distance that is none, or none of the prompt's, leaves the tile short of what all would be.
    full = count == b + tile.block_q - 1
    with on_device(q.device):
        o, _ = listed_attention(
            q, k, v, position=position, lists=list_tiles(count > 0, full, tile=tile),
            table=diagonals, columns=Columns(places=columns.sort(-1).values.int()), scale=scale,
        )  # fmt: skip
    return o


def _vertical_slash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    columns: Tensor,
    diagonals: Tensor,
    position: int,
    *,
    scale: float,
) -> Tensor:
    """Attend from a block of queries that starts at a position."""
    end, device = position + q.shape[2], q.device
    i = torch.arange(position, end, device=device)[:, None]
    needed = _needed(diagonals[..., :end], position, end)
    most = int(needed.sum(-1).max())
    if most * _KEYS + columns.shape[-1] >= end:
        # Gathering would bring no less than there is.
        far = i - torch.arange(end, device=device)
        column = torch.zeros_like(diagonals).scatter(-1, columns, True)[:, :, None, :end]
        mask = (diagonals[:, :, far.clamp(min=0)] | column) & (far >= 0)
        return sdpa.masked(q, k[:, :, :end], v[:, :, :end], mask, scale=scale)
    inside = torch.arange(_KEYS, device=device)
    crossed = (places(needed, most)[..., None] * _KEYS + inside).flatten(-2)
    at = torch.cat([crossed, columns], -1)  # [B, H, K]
    far = i - at[:, :, None]  # [B, H, L, K]
    seen = diagonals.gather(-1, far.clamp(min=0).flatten(-2)).view_as(far)
    # Where a diagonal crosses a column, the key is among the blocks already.
    seen[..., crossed.shape[-1] :].logical_not_()
    return gathered(q, k, v, at, seen & (far >= 0), scale=scale)


def _vertical_slash_oracle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    place: Place,
    columns: int,
    diagonals: int,
    last: int,
    sinks: int,
    recent: int,
) -> Tensor:
    N = q.shape[2]
    n = min(last, N)
    score = oracle.scores(q, k, scale=scale).masked_fill(~oracle.causal(N), -torch.inf)
    weight = score.softmax(-1)[:, :, N - n :]
    by_key = weight.sum(-2)
    by_distance = torch.stack(
        [weight.diagonal(N - n - d, -2, -1).sum(-1) for d in range(N)], dim=-1
    )
    by_key[..., :sinks] = torch.inf
    by_distance[..., :recent] = torch.inf
    far = torch.arange(N)[:, None] - torch.arange(N)
    mask = torch.zeros_like(score, dtype=torch.bool)
    for j in by_key.topk(min(N, max(columns, sinks))).indices.unbind(-1):
        mask |= torch.arange(N) == j[..., None, None]
    for d in by_distance.topk(min(N, max(diagonals, recent))).indices.unbind(-1):
        mask |= far == d[..., None, None]
    return oracle.by_mask(q, k, v, mask, scale=scale)


def _make_vertical_slash(place: Place, **settings: Any) -> VerticalSlashLayer:
    return VerticalSlashLayer(**settings)


RECORDS = (
    AttentionRecord(
        name="minference",
        title="MInference (vertical-slash)",
        make=_make_vertical_slash,
        oracle=_vertical_slash_oracle,
        settings={"columns": 1000, "diagonals": 6096, "last": 64, "sinks": 30, "recent": 100},
        paper="Jiang et al., NeurIPS 2024 (arXiv 2407.02490)",
        code="microsoft/MInference",
        needs_tuning=False,
        prefill="sparse",
        decode="dense",
        kv_kept="all",
        reaches_all=True,
        shortest=6096,
        adapted="diagonals are exact to the token; the authors' kernel widens them to blocks of 64",
        whole_prompt=True,
        incremental=False,
        note="all heads have the release's sizes for models without a searched file; turns after "
        "the prompt are read in full",
    ),
    A_SHAPE,
)
