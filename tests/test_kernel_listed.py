"""Attention to listed tiles, windows and columns against a mask in float64."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import assert_within_budget
from test_kernel_prefill import poison
from torch import Tensor

from cca_kernels.block_weights import block_weights
from cca_kernels.listed_attention import Columns, listed_attention
from cca_kernels.tile_lists import TileLists, list_tiles, listed_tile
from cca_kernels.tiles import Tile

HALF, LONG = torch.float16, torch.bfloat16
gpu = pytest.mark.gpu


@dataclass(frozen=True, kw_only=True)
class Case:
    """L queries at `position` against S keys."""

    B: int = 1
    H: int = 4
    KV: int = 1
    L: int = 45
    S: int = 45
    D: int = 16
    position: int = 0
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        shape = "-".join(f"{n}{getattr(self, n)}" for n in ("B", "H", "KV", "L", "S", "D"))
        return f"{shape}-p{self.position}-{str(self.dtype).removeprefix('torch.')}"

    def tensors(self, device: str = "cpu") -> list[Tensor]:
        random = torch.Generator().manual_seed(0)
        return [
            torch.randn(self.B, h, n, self.D, generator=random).to(device, self.dtype)
            for h, n in ((self.H, self.L), (self.KV, self.S), (self.KV, self.S))
        ]

    def distances(self, device: str = "cpu") -> Tensor:
        """From every query to every key, where key j stands at j."""
        i = torch.arange(self.position, self.position + self.L, device=device)
        return i[:, None] - torch.arange(self.S, device=device)


CASES = [
    Case(H=2, L=75, S=75),
    Case(H=8, KV=1, L=9, S=68, D=24, position=59),
    Case(H=2, KV=2, L=70, S=70, D=32, dtype=HALF),
    Case(B=2, L=1, S=50, position=49, H=2),
    Case(H=2, KV=1, L=20, S=90, position=70, D=13),
]
GPU_CASES = [
    Case(H=9, KV=3, L=4096, S=4096, D=64, dtype=LONG),
    Case(B=2, H=4, KV=1, L=1000, S=5000, D=128, position=4000, dtype=LONG),
    Case(H=4, KV=4, L=3001, S=3001, D=80, dtype=HALF),
    Case(H=2, KV=1, L=700, S=700, D=256, dtype=LONG),
    Case(H=2, KV=1, L=700, S=700, D=128),
]
cases = pytest.mark.parametrize("case", CASES, ids=str)
gpu_cases = pytest.mark.parametrize("case", GPU_CASES, ids=str)


def by_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attend where a mask, broadcast to [B, H, L, S], allows."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    score = (q @ k.transpose(-1, -2) * 0.3).masked_fill(~mask, -torch.inf)
    return score.softmax(-1).nan_to_num(0.0) @ v, score.logsumexp(-1)


def check(tensors: list[Tensor], mask: Tensor, actual: tuple[Tensor, Tensor]) -> None:
    """Compare with the mask; rows that see nothing are 0 and -inf."""
    o, lse = actual
    exact = by_mask(*(t.double() for t in tensors), mask)
    low = by_mask(*tensors, mask)
    nothing = (~mask).all(-1).expand(lse.shape)
    assert (lse[nothing] == -torch.inf).all() and (o[nothing] == 0).all()
    assert_within_budget(o, low=low[0], exact=exact[0])
    lse, low_lse, exact_lse = (
        x.float() if x.dtype != torch.float64 else x for x in (lse, low[1], exact[1])
    )
    lse, low_lse, exact_lse = (x.masked_fill(nothing, 0) for x in (lse, low_lse, exact_lse))
    assert_within_budget(lse, low=low_lse, exact=exact_lse)


def run(case: Case, tensors: list[Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    return listed_attention(*tensors, position=case.position, scale=0.3, **options)


def tiled(mask: Tensor, position: int, tile: Tile) -> tuple[Tensor, Tensor]:
    """Say which tiles of a mask [.., L, S] have anything, and which have all."""
    before, (L, S) = position % tile.block_q, mask.shape[-2:]
    pad = (0, -S % tile.block_k, before, -(before + L) % tile.block_q)

    def cut(x: Tensor) -> Tensor:
        x = F.pad(x, pad).unflatten(-1, (-1, tile.block_k)).any(-1)
        return x.unflatten(-2, (-1, tile.block_q)).any(-2)

    ragged = F.pad(torch.zeros_like(mask[..., :1, :]), pad[:2], value=True)[..., 0, :]
    ragged = ragged.unflatten(-1, (-1, tile.block_k)).any(-1)[..., None, :]
    return cut(mask), ~cut(~mask) & ~ragged


@cases
@pytest.mark.parametrize("window", [None, 17])
def test_windows(case: Case, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch)
    tensors, far = case.tensors(), case.distances()
    mask = (far >= 0) & (far < (window or case.S))
    check(tensors, mask, run(case, tensors, window=window))


@pytest.mark.parametrize("shift", [-9, 30])
def test_keys_may_begin_anywhere(shift: int) -> None:
    """Before the first query, so that none is near enough for some; behind it, so that some see
    nothing."""
    case = Case(L=45, S=40, position=60)
    tensors, far = case.tensors(), case.distances() - 40 - shift
    o = run(case, tensors, key_start=40 + shift, window=30)
    check(tensors, (far >= 0) & (far < 30), o)


def test_keys_that_stand_for_blocks() -> None:
    """Key c is seen from position 7 + 8 c on."""
    case = Case(L=100, S=12)
    tensors = case.tensors()
    mask = torch.arange(100)[:, None] >= torch.arange(12) * 8 + 7
    check(tensors, mask, run(case, tensors, key_start=7, key_step=8))


@cases
def test_lists(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random tiles for each head, some queries without any; tiles of zeros are never read."""
    poison(monkeypatch)
    tensors, far = case.tensors(), case.distances()
    tile = listed_tile(tensors[0])
    assert tile is not None
    causal = far >= 0
    some, full = tiled(causal, case.position, tile)
    kept = torch.rand(case.B, case.H, *some.shape) < 0.5
    lists = list_tiles(kept & some, full, tile=tile)
    assert torch.equal(lists.counts[..., 1], (kept & some).sum(-1))
    assert torch.equal(lists.counts[..., 0], (kept & some & ~full).sum(-1))
    rows = torch.arange(case.position, case.position + case.L) // tile.block_q
    mask = kept[:, :, rows - rows[0]].repeat_interleave(tile.block_k, -1)[..., : case.S] & causal
    check(tensors, mask, run(case, tensors, lists=lists))


@cases
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_distances_and_columns(case: Case, share: float) -> None:
    tensors, far = case.tensors(), case.distances()
    tile = listed_tile(tensors[0])
    assert tile is not None
    table = torch.rand(case.B, case.H, case.S) < share
    by_distance = table[..., far.clamp(min=0)] & (far >= 0)
    some, full = tiled(by_distance, case.position, tile)
    places = torch.rand(case.B, case.H, case.S).topk(9).indices.sort(-1).values
    column = torch.zeros(case.B, case.H, case.S, dtype=torch.bool).scatter(-1, places, True)
    mask = by_distance | (column[:, :, None] & (far >= 0))
    lists = list_tiles(some, full, tile=tile)
    check(tensors, by_distance, run(case, tensors, lists=lists, table=table))
    columns = Columns(places=places.int())
    check(tensors, mask, run(case, tensors, lists=lists, table=table, columns=columns))


@cases
@pytest.mark.parametrize("block", [8, 64])
def test_choices_of_every_query(case: Case, block: int) -> None:
    tensors, far = case.tensors(), case.distances()
    tile = listed_tile(tensors[0])
    assert tile is not None
    choice = torch.rand(case.B, case.H, case.L, -(-case.S // block)) < 0.3
    mask = choice.repeat_interleave(block, -1)[..., : case.S] & (far >= 0)
    lists = list_tiles(*tiled(mask, case.position, tile), tile=tile)
    check(tensors, mask, run(case, tensors, lists=lists, choice=choice, choice_block=block))


@cases
@pytest.mark.parametrize("turned", [False, True])
def test_first_tokens_behind_a_window(case: Case, turned: bool) -> None:
    """They have keys of their own, and queries turn before they look at them."""
    q, k, v = case.tensors()
    if turned and case.D % 2:
        pytest.skip("heads that are turned have halves")
    far_k, far_v = torch.randn(2, case.B, case.KV, 21, case.D, dtype=torch.float64).to(case.dtype)
    places = torch.tensor([0, 1, 2, 5, 20], dtype=torch.int32)
    turn = None
    looking = q.double()
    if turned:
        angle = torch.randn(case.L, case.D // 2)
        turn = torch.cat([angle.cos()] * 2, -1), torch.cat([-angle.sin(), angle.sin()], -1)
        looking = looking * turn[0] + looking.roll(case.D // 2, -1) * turn[1]
    columns = Columns(places=places[None, None], k=far_k, v=far_v, turn=turn)
    o, lse = run(case, [q, k, v], window=13, columns=columns)

    distance, G = case.distances(), case.H // case.KV
    to_first = torch.arange(case.position, case.position + case.L)[:, None] - places
    score = [
        x @ y.double().repeat_interleave(G, 1).mT * 0.3
        for x, y in ((looking, far_k[:, :, places.long()]), (q.double(), k))
    ]
    score[0] = score[0].masked_fill(to_first < 13, -torch.inf)
    score[1] = score[1].masked_fill((distance < 0) | (distance >= 13), -torch.inf)
    both = torch.cat(score, -1)
    values = torch.cat([far_v[:, :, places.long()], v], 2).double().repeat_interleave(G, 1)
    tolerance = 5e-3 if case.dtype == HALF else 2e-6
    torch.testing.assert_close(o.double(), both.softmax(-1) @ values, rtol=0, atol=tolerance)
    torch.testing.assert_close(lse.double(), both.logsumexp(-1), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("H", "KV"), [(1, 1), (4, 1), (8, 1), (6, 2)])
def test_heads_of_a_group_in_one_program(H: int, KV: int) -> None:
    """A list for every query of a KV head: its own tile first, then two of those before."""
    case = Case(H=H, KV=KV, L=17, S=50, position=33)
    tensors, block = case.tensors(), 16
    own = torch.arange(33, 50) // block
    tiles = torch.stack([own, (own - 1).clamp(min=0), (own - 2).clamp(min=0)], -1)
    tiles = tiles.expand(1, KV, -1, -1).int().contiguous()
    tiles[:, 0, ::3, 1] = 0
    counts = torch.stack([torch.ones_like(own), (own + 1).clamp(max=2)], -1).int()[None, None]
    tile = Tile(block_q=16, block_k=block, num_warps=4, num_stages=1)
    lists = TileLists(tiles=tiles, counts=counts, tile=tile, queries=1, heads=H // KV)
    mask = torch.zeros(1, KV, 17, 50, dtype=torch.bool)
    for h, i in torch.cartesian_prod(torch.arange(KV), torch.arange(17)).tolist():
        for at in (tiles[0, h, i, : counts[0, 0, i, 1]] * block).tolist():
            mask[0, h, i, at : at + block] = True
    mask = mask.repeat_interleave(H // KV, 1) & (case.distances() >= 0)
    check(tensors, mask, run(case, tensors, lists=lists))


@pytest.mark.parametrize(("H", "KV", "position"), [(4, 1, 0), (3, 3, 37)])
def test_weights_of_blocks(H: int, KV: int, position: int) -> None:
    """Summed over the heads; some blocks always first, and none ahead of a query."""
    L, block = 50, 8
    M = (position + L) // block
    random = torch.Generator().manual_seed(0)
    q, means = (torch.randn(2, h, n, 16, generator=random) for h, n in ((H, L), (KV, M)))
    i = torch.arange(position, position + L)[:, None]
    c = torch.arange((position + L - 1) // block + 1)
    score = q.double() @ means.double().repeat_interleave(H // KV, 1).mT * 0.3
    score = score.masked_fill(((c + 1) * block - 1 > i)[:, :M], -torch.inf)
    exact = score.softmax(-1).nan_to_num(0.0).unflatten(1, (KV, -1)).sum(2)
    exact = F.pad(exact, (0, len(c) - M))
    own = i // block
    exact = exact.masked_fill((c < 1) | (c > own - 2), 3e38)
    exact = exact.masked_fill(c == own, torch.inf).masked_fill(c > own, -torch.inf)
    lse = score.logsumexp(-1).float()
    actual = block_weights(
        q, means, lse, position=position, block=block, scale=0.3, first=1, last=2
    )
    torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-6)


def test_strides_do_not_matter() -> None:
    case = Case(B=2, H=2)
    tensors = case.tensors()
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
    apart = [torch.stack([t, t + 1], -1)[..., 0] for t in tensors]
    one, *others = (run(case, ts, window=20) for ts in (tensors, strided, apart))
    for other in others:
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_tiles_divide_what_they_must() -> None:
    q = torch.empty(1, 1, 1, 64)
    assert listed_tile(q) == listed_tile(q, rows=64, keys=128)
    assert listed_tile(q, rows=96, keys=160) == listed_tile(q)
    assert listed_tile(q, rows=8) is None and listed_tile(q, keys=24) is None


def test_what_does_not_fit_together_is_refused() -> None:
    case = Case()
    tensors = case.tensors()
    table = torch.ones(1, 1, 45, dtype=torch.bool)
    with pytest.raises(ValueError, match="expected lists"):
        run(case, tensors, table=table)
    with pytest.raises(ValueError, match="expected a table or a window"):
        run(case, tensors, columns=Columns(places=torch.zeros(1, 1, 1, dtype=torch.int32)))


@gpu
@gpu_cases
@pytest.mark.parametrize("window", [None, 513])
def test_windows_on_the_accelerator(
    case: Case, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch)
    tensors, far = case.tensors("cuda"), case.distances("cuda")
    mask = (far >= 0) & (far < (window or case.S))
    check(tensors, mask, run(case, tensors, window=window))


@gpu
@gpu_cases
@pytest.mark.parametrize("block", [32, 256])
def test_lists_tables_choices_on_the_accelerator(case: Case, block: int) -> None:
    tensors, far = case.tensors("cuda"), case.distances("cuda")
    tile = listed_tile(tensors[0])
    assert tile is not None
    table = torch.rand(case.B, case.H, case.S, device="cuda") < 0.01
    table[..., :300] = True
    by_distance = table[..., far.clamp(min=0)] & (far >= 0)
    lists = list_tiles(*tiled(by_distance, case.position, tile), tile=tile)
    places = torch.rand(case.B, case.H, case.S, device="cuda").topk(200).indices.sort(-1).values
    column = torch.zeros_like(table).scatter(-1, places, True)
    mask = by_distance | (column[:, :, None] & (far >= 0))
    columns = Columns(places=places.int())
    check(tensors, mask, run(case, tensors, lists=lists, table=table, columns=columns))

    choice = torch.rand(case.B, case.H, case.L, -(-case.S // block), device="cuda") < 0.2
    mask = choice.repeat_interleave(block, -1)[..., : case.S] & (far >= 0)
    lists = list_tiles(*tiled(mask, case.position, tile), tile=tile)
    check(tensors, mask, run(case, tensors, lists=lists, choice=choice, choice_block=block))
    # Tiles that are all seen are not masked.
    choice = choice[:, :, :1].expand_as(choice)
    mask = choice.repeat_interleave(block, -1)[..., : case.S] & (far >= 0)
    lists = list_tiles(*tiled(mask, case.position, tile), tile=tile)
    check(tensors, mask, run(case, tensors, lists=lists, choice=choice, choice_block=block))


@gpu
def test_smaller_tiles_on_the_accelerator() -> None:
    case = GPU_CASES[0]
    tensors, far = case.tensors("cuda"), case.distances("cuda")
    tile = listed_tile(tensors[0], rows=64, keys=32)
    assert tile is not None and (tile.block_q, tile.block_k) == (64, 32)
    for one in (tile, replace(tile, block_q=16, num_warps=2)):
        check(tensors, (far >= 0) & (far < 99), run(case, tensors, window=99, tile=one))


@gpu
def test_weights_of_blocks_on_the_accelerator() -> None:
    """In bfloat16, beside the same in float32: scores are not rounded."""
    q = torch.randn(1, 9, 4000, 64, device="cuda", dtype=LONG)
    means = torch.randn(1, 3, 62, 64, device="cuda")
    score = q.float() @ means.repeat_interleave(3, 1).mT * 0.125
    i, c = torch.arange(4000, device="cuda")[:, None], torch.arange(62, device="cuda")
    score = score.masked_fill((c + 1) * 64 - 1 > i, -torch.inf)
    exact = score.softmax(-1).nan_to_num(0.0).unflatten(1, (3, 3)).sum(2)
    actual = block_weights(q, means, score.logsumexp(-1), position=0, block=64, scale=0.125)
    behind = (c < i // 64).expand_as(exact)
    torch.testing.assert_close(actual[..., :62][behind], exact[behind], rtol=1e-4, atol=1e-6)
