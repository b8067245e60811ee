"""Quest: decoding after a prompt by its definition, the bounds of pages, and when it is dense."""

import pytest
import torch
from torch import Tensor

from cca_models.benchmarks_memory import held_bytes
from cca_models.peers import Place
from cca_models.peers.quest import RECORD, QuestLayer

D, SCALE = 16, 0.4
PROMPT, STEPS = 130, 27
SMALL = {"page": 8, "keep": 32, "dense_layers": 2}


def make(heads: int, kv_heads: int, *, layer: int = 2, **settings: int) -> QuestLayer:
    place = Place(
        layer=layer, layers=6, heads=heads, kv_heads=kv_heads, head_dim=D,
        frequencies=torch.ones(D // 2, dtype=torch.float64),
    )  # fmt: skip
    layer_memory = RECORD.make(place, **{**SMALL, **settings})
    assert isinstance(layer_memory, QuestLayer)
    return layer_memory


def draw(heads: int, kv_heads: int, length: int = PROMPT + STEPS) -> list[Tensor]:
    random = torch.Generator().manual_seed(heads * 10 + kv_heads)
    shapes = [(2, h, length, D) for h in (heads, kv_heads, kv_heads)]
    return [torch.randn(s, generator=random, dtype=torch.float64) * 1.5 for s in shapes]


def read(layer: QuestLayer, tensors: list[Tensor], *, prompt: int = PROMPT) -> list[Tensor]:
    """Read a prompt in one piece and the rest token by token."""
    pieces = [prompt] + [1] * (tensors[0].shape[2] - prompt)
    parts = zip(*(t.split(pieces, 2) for t in tensors), strict=True)
    return [layer.attend(*part, scale=SCALE) for part in parts]


def one_token(q: Tensor, k: Tensor, v: Tensor, *, page: int, pages: int) -> Tensor:
    """The definition for one query head: q [D]; k, v [S, D]."""
    bounds = []
    for keys in k.split(page):
        high, low = keys.max(0).values, keys.min(0).values
        bounds.append(torch.maximum(q * high, q * low).sum())
    best = sorted(range(len(bounds)), key=lambda p: -float(bounds[p]))[:pages]
    tokens = [t for t in range(len(k)) if t // page in best]
    return (k[tokens] @ q * SCALE).softmax(0) @ v[tokens]


def dense_token(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (k @ q * SCALE).softmax(0) @ v


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (8, 2), (8, 1)])
@pytest.mark.parametrize("prompt", [PROMPT, 128, 1])
def test_decoding_equals_its_definition(heads: int, kv_heads: int, prompt: int) -> None:
    q, k, v = draw(heads, kv_heads)
    out = torch.cat(read(make(heads, kv_heads), [q, k, v], prompt=prompt), 2)
    differs = 0
    for b in range(2):
        for h in range(heads):
            g = h // (heads // kv_heads)
            for t in range(prompt - 1, q.shape[2]):
                past = q[b, h, t], k[b, g, : t + 1], v[b, g, : t + 1]
                expected = dense_token(*past) if t < prompt else one_token(*past, page=8, pages=4)
                torch.testing.assert_close(out[b, h, t], expected, atol=1e-10, rtol=0)
                differs += int((expected - dense_token(*past)).abs().max() > 1e-3)
    assert differs > heads * STEPS


@pytest.mark.parametrize(("layer", "sparse"), [(0, False), (1, False), (2, True)])
def test_the_first_layers_stay_dense(layer: int, sparse: bool) -> None:
    q, k, v = draw(2, 1)
    memory = make(2, 1, layer=layer)
    out = read(memory, [q, k, v])[-1]
    expected = torch.stack([dense_token(q[0, h, -1], k[0, 0], v[0, 0]) for h in range(2)])
    assert bool((out[0, :, 0] - expected).abs().max() > 1e-3) is sparse
    assert ("page_high" in memory.tensors()) is sparse


def test_three_pages_are_read_however_little_is_to_be_kept() -> None:
    tensors = draw(2, 1)
    few, three, four = (read(make(2, 1, keep=keep), tensors)[-1] for keep in (1, 3 * 8 + 7, 4 * 8))
    torch.testing.assert_close(few, three, atol=0, rtol=0)
    assert (few - four).abs().max() > 1e-3


def test_a_page_is_judged_by_its_extremes_and_for_each_head() -> None:
    """By hand: page 1 has no single good key, but the highest bound; the two heads disagree."""
    page, length = 2, 13
    k = torch.zeros(1, 1, length, D, dtype=torch.float64)
    k[0, 0, 2, 0], k[0, 0, 2, 1] = 9.0, -9.0
    k[0, 0, 3, 0], k[0, 0, 3, 1] = -9.0, 9.0  # bounds of (1, 1): 18; its scores are 0
    k[0, 0, 4, 0] = 5.0  # page 2: 5
    k[0, 0, 7, 1] = 4.0  # page 3: 4
    k[0, 0, 8, :2] = -3.0  # page 4: 0, and 6 for the head that looks the other way
    k[0, 0, 9, :2] = -3.0
    k[0, 0, 10:, :2] = -1.0  # pages 5 and 6
    k[0, 0, :2, :2] = -1.0  # page 0
    # A value tells of which token it is.
    v = torch.eye(length, D, dtype=torch.float64)[None, None]
    q = torch.zeros(1, 2, length, D, dtype=torch.float64)
    q[0, 0, :, :2], q[0, 1, :, :2] = 1.0, -1.0
    memory = make(2, 1, page=page, keep=1)
    weight = read(memory, [q, k, v], prompt=length - 1)[-1][0, :, 0]
    assert (weight[0] > 0).nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7]
    # 18 for page 1, 6 for page 4, then 2 for pages 0, 5 and 6, of which one is read.
    second = set((weight[1] > 0).nonzero().flatten().tolist())
    assert second >= {2, 3, 8, 9} and len({t // page for t in second}) == 3


def test_pages_that_are_not_chosen_are_not_touched() -> None:
    q, k, v = (t[:1] for t in draw(4, 1))
    q[:, :, PROMPT:, 0], k[..., 0] = 50.0, 1.0
    k[:, :, 40:80, 0] = -100.0
    v[:, :, 40:80] = torch.nan
    out = torch.cat(read(make(4, 1), [q, k, v])[1:], 2)
    assert out.isfinite().all()


@pytest.mark.parametrize("pieces", [(157,), (64, 1, 7, 3, 60, 22), (8, 9, 140), (1,) * 157])
def test_bounds_are_kept_up_to_date(pieces: tuple[int, ...]) -> None:
    q, k, v = draw(2, 2)
    memory = make(2, 2)
    for part in zip(*(t.split(pieces, 2) for t in (q, k, v)), strict=True):
        memory.attend(*part, scale=SCALE)
    held = memory.tensors()
    high = torch.cat([held["page_high"], held["open_high"]], 2)
    low = torch.cat([held["page_low"], held["open_low"]], 2)
    for p, keys in enumerate(k.split(8, 2)):
        assert torch.equal(high[:, :, p], keys.amax(2))
        assert torch.equal(low[:, :, p], keys.amin(2))
    assert high.shape[2] == 20
    assert memory.nbytes == k.nbytes + v.nbytes + high.nbytes + low.nbytes


def test_bounds_of_a_fork_are_its_own() -> None:
    tensors = draw(4, 2)
    memory = make(4, 2)
    read(memory, [t[:, :, :PROMPT] for t in tensors])
    twin = memory.fork()
    # Page 16 is open at the fork: the twin fills it with keys that would be chosen for sure.
    read(twin, [t[:, :, PROMPT:] * 9 for t in tensors], prompt=1)
    rest = read(memory, [t[:, :, PROMPT:] for t in tensors], prompt=1)
    expected = read(make(4, 2), tensors)[1:]
    torch.testing.assert_close(torch.cat(rest, 2), torch.cat(expected, 2), atol=0, rtol=0)


def test_a_restored_memory_goes_on_as_if_it_had_read() -> None:
    tensors = draw(4, 2)
    memory, restored = make(4, 2), make(4, 2)
    read(memory, [t[:, :, :PROMPT] for t in tensors])
    restored.restore(memory.tensors(), seen=memory.seen)
    rest = [t[:, :, PROMPT:] for t in tensors]
    for a, b in zip(read(memory, rest, prompt=1), read(restored, rest, prompt=1), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_the_last_query_of_a_prompt_is_dense() -> None:
    q, k, v = draw(4, 2)
    last = make(4, 2).attend(q, k, v, scale=SCALE, last_only=True)
    expected = dense_token(q[1, 3, -1], k[1, 1], v[1, 1])
    torch.testing.assert_close(last[1, 3, 0], expected, atol=1e-10, rtol=0)


def test_half_precision_chooses_in_float32() -> None:
    """Bounds that differ by less than bfloat16 can tell at their size."""
    length = 41
    k = torch.full((1, 1, length, D), 16.0, dtype=torch.bfloat16)
    # Pages 0 and 1 sum to 256 * 16 + 1; four others to 256 * 16; bfloat16 rounds all to 4096.
    k[..., :16, 0] = 16.0625
    v = torch.arange(length, dtype=torch.bfloat16)[None, None, :, None].expand(1, 1, -1, D) // 8
    q = torch.full((1, 1, length, D), 16.0, dtype=torch.bfloat16)
    k[..., 16:, 1] = 15.9375
    k[..., 40:, 1] = 16.0
    out = read(make(1, 1, keep=24), [q, k, v], prompt=length - 1)[-1]
    # Pages 0, 1 and 5, of which the last holds one token; no others but for rounding.
    weight = (k[0, 0].double() @ q[0, 0, -1].double() * SCALE)[[*range(16), 40]].softmax(0)
    values = torch.tensor([0.0] * 8 + [1.0] * 8 + [5.0], dtype=torch.float64)
    torch.testing.assert_close(out[0, 0, 0, 0].double(), weight @ values, atol=0.01, rtol=0)


@pytest.mark.gpu
def test_half_precision_on_a_gpu() -> None:
    tensors = [t.to(torch.bfloat16) for t in draw(8, 2)]
    exact = read(make(8, 2), [t.double() for t in tensors])
    half = read(make(8, 2), [t.cuda() for t in tensors])
    gap = torch.cat(half, 2).double().cpu() - torch.cat(exact, 2)
    assert (gap.abs().amax(-1) < 0.05).double().mean() > 0.95


def test_room_made_beforehand_is_for_pages_where_pages_are_held() -> None:
    tensors = draw(2, 1)
    memory = make(2, 1)
    memory.expect(PROMPT + STEPS)
    read(memory, tensors)
    token = 2 * 2 * D * 8  # keys and values, rows, float64
    pages = -(-(PROMPT + STEPS) // SMALL["page"])
    open_page = token
    held = held_bytes(memory.tensors().values())
    assert held == token * (PROMPT + STEPS + pages) + open_page
