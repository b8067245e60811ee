"""What attentions over blocks of keys share: the blocks' means, the choice of the best, gathering.

Shapes: q [B, H, L, D]; k, v [B, KV, S, D]; N blocks begun, the last of them perhaps not full.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cca_models.peers.sdpa import wide

# Scores held at a time: 512 MiB in float32.
SCORES = 1 << 27


def grouped(q: Tensor, k: Tensor) -> Tensor:
    """Multiply query heads with their KV heads, [B, H, L, D] by [B, KV, D, S] to [B, H, L, S].

    The KV heads are not repeated.
    """
    B, H, L, D = q.shape
    KV, S = k.shape[1], k.shape[3]
    return (q.reshape(B, KV, H // KV * L, D) @ k).reshape(B, H, L, S)


def add_means(means: Tensor | None, x: Tensor, *, block: int) -> Tensor:
    """Add the means of the blocks that have become full.

    Args:
        means: Of the first blocks, [B, KV, M, D]; None if there are none yet. Never written to.
        x: Keys or values from the first token on, [B, KV, S, D].
        block: Tokens per block.

    Returns:
        [B, KV, S // block, D], in float32 at least.
    """
    have, full = 0 if means is None else means.shape[2], x.shape[2] // block
    if means is not None and have == full:
        return means
    new = x[:, :, have * block : full * block].unflatten(2, (full - have, block))
    mean = new.mean(3, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    return mean if means is None else torch.cat([means, mean], 2)


def choose(
    score: Tensor, position: int, *, block: int, count: int, first: int = 0, last: int = 1
) -> Tensor:
    """Choose the best blocks of every query among its own and those before; some always.

    Of blocks that score the same the earlier one is taken, which top-k alone would leave open.

    Args:
        score: Of the full blocks, [..., L, M].
        position: Of the first query.
        block: Tokens per block.
        count: Blocks chosen per query, or all where there are fewer.
        first: Blocks of the text's beginning that are always among them.
        last: Blocks, the query's own and those just before it, that are always among them.

    Returns:
        Whether a block is chosen, [..., L, N], N counted at the last query.
    """
    L, M = score.shape[-2:]
    own = torch.arange(position, position + L, device=score.device)[:, None] // block
    N = (position + L - 1) // block + 1
    number = torch.arange(N, device=score.device)
    forced = (number <= own) & ((number < first) | (number > own - last))
    score = F.pad(score, (0, N - M)).masked_fill(number >= own, -torch.inf)
    score = score.masked_fill(forced, torch.inf)
    bar = score.topk(min(count, N), -1).values[..., -1:]
    above, level = score > bar, score == bar
    room = min(count, N) - above.sum(-1, keepdim=True)
    chosen = above | (level & (level.cumsum(-1, dtype=torch.int32) <= room))
    return chosen & (score > -torch.inf)


def listed(chosen: Tensor, count: int) -> Tensor:
    """List what is chosen, in ascending order, without asking the device how much it is.

    Args:
        chosen: [..., N], at most `count` in each row.
        count: Length of the lists.

    Returns:
        Numbers [..., count]; N fills up a row that has fewer.
    """
    N = chosen.shape[-1]
    slot = torch.where(chosen, chosen.cumsum(-1) - 1, count)
    lists = slot.new_full((*chosen.shape[:-1], count + 1), N)
    # What is not chosen goes to a last place that nobody reads.
    lists.scatter_(-1, slot, torch.arange(N, device=slot.device).expand_as(slot))
    return lists[..., :count]


def tokens_of(lists: Tensor, *, block: int) -> Tensor:
    """Give the positions of the tokens of listed blocks, [..., n] to [..., n * block]."""
    inside = torch.arange(block, device=lists.device)
    return (lists[..., None] * block + inside).flatten(-2)


def gather(x: Tensor, tokens: Tensor) -> Tensor:
    """Take tokens of every KV head, [B, KV, S, D] at [B, KV, L, n] to [B, KV, L, n, D].

    Positions past the end give the last token: a caller masks them.
    """
    B, KV, S, _ = x.shape
    row = torch.arange(B, device=x.device)[:, None, None, None]
    head = torch.arange(KV, device=x.device)[:, None, None]
    return x[row, head, tokens.clamp(max=S - 1)]


def by_block(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, position: int, *, block: int, scale: float
) -> Tensor:
    """Attend causally to chosen blocks: block by block, from the queries that have chosen it.

    Keys are not copied. The number of queries is asked of the device: not for steps of decoding.

    Args:
        q: Queries, [B, H, L, D].
        k: Keys from the first token on, [B, KV, S, D].
        v: Values, like k.
        chosen: [B, H, L, N]; every query has chosen its own block.
        position: Of the first query.
        block: Tokens per block.
        scale: Factor on the scores.

    Returns:
        [B, H, L, D].
    """
    B, H, L, D = q.shape
    # A last row for the filling of short lists; nobody reads it.
    o = wide(q).new_zeros(B, H, L + 1, D)
    lse = o.new_full((B, H, L + 1), -torch.inf)
    step = max(1, SCORES // (B * H * block))
    for number, most in enumerate(chosen.sum(2).amax((0, 1)).tolist()):
        begin, end = number * block, min((number + 1) * block, k.shape[2])
        lists = listed(chosen[..., number], most)  # [B, H, most]
        for rows in lists.split(step, 2) if most else ():
            index = rows[..., None].expand(-1, -1, -1, D)
            picked = q.gather(2, index.clamp(max=L - 1))
            score = wide(grouped(picked, k[:, :, begin:end].transpose(-1, -2)) * scale)
            if end > position + 1:
                key = torch.arange(begin, end, device=q.device)
                score = score.masked_fill(key > position + rows[..., None], -torch.inf)
            new = score.logsumexp(-1)  # finite: a query that chose a block sees a token of it
            weight = (score - new[..., None]).exp().to(v.dtype)
            values = wide(grouped(weight, v[:, :, begin:end]))
            old = lse.gather(2, rows)
            both = torch.logaddexp(old, new)
            values = values * (new - both).exp()[..., None]
            values += o.gather(2, index) * (old - both).exp()[..., None]
            o.scatter_(2, index, values)
            lse.scatter_(2, rows, both)
    return o[:, :, :L].to(q.dtype)
