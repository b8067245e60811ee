"""SnapKV: decoding after a prompt by its definition, and which tokens are kept."""

import pytest
import torch
from torch import Tensor

from cca_models.peers import Place
from cca_models.peers.snapkv import RECORD, SnapLayer

D, SCALE = 16, 0.4
PROMPT, STEPS = 130, 25
SMALL = {"keep": 30, "window": 10, "pool": 5}


def make(**settings: int) -> SnapLayer:
    place = Place(
        layer=0, layers=6, heads=4, kv_heads=2, head_dim=D,
        frequencies=torch.ones(D // 2, dtype=torch.float64),
    )  # fmt: skip
    layer = RECORD.make(place, **{**SMALL, **settings})
    assert isinstance(layer, SnapLayer)
    return layer


def draw(heads: int, kv_heads: int, length: int = PROMPT + STEPS) -> list[Tensor]:
    random = torch.Generator().manual_seed(heads * 10 + kv_heads)
    shapes = [(2, h, length, D) for h in (heads, kv_heads, kv_heads)]
    return [torch.randn(s, generator=random, dtype=torch.float64) * 1.5 for s in shapes]


def read(layer: SnapLayer, tensors: list[Tensor], *, prompt: int = PROMPT) -> list[Tensor]:
    """Read a prompt in one piece and the rest token by token."""
    pieces = [prompt] + [1] * (tensors[0].shape[2] - prompt)
    parts = zip(*(t.split(pieces, 2) for t in tensors), strict=True)
    return [layer.attend(*part, scale=SCALE) for part in parts]


def kept_tokens(
    q: Tensor, k: Tensor, *, keep: int = 30, window: int = 10, pool: int = 5
) -> list[int]:
    """The definition for one KV head: its query heads q [g, L, D], and k [L, D]."""
    L = len(k)
    if keep + window >= L:
        return list(range(L))
    votes = torch.zeros(L - window, dtype=torch.float64)
    for head in q:
        for i in range(L - window, L):
            votes += (k[: i + 1] @ head[i] * SCALE).softmax(0)[: L - window]
    pooled = []
    for j in range(L - window):
        # Beyond either end there is nothing, and it counts.
        near = range(max(0, j - pool // 2), min(L - window, j + pool // 2 + 1))
        pooled.append(sum(float(votes[n]) for n in near) / pool)
    best = sorted(range(L - window), key=lambda j: -pooled[j])[:keep]
    return sorted(best) + list(range(L - window, L))


def positions(layer: SnapLayer, k: Tensor) -> list[list[list[int]]]:
    """Find where the keys that a layer holds stand in k, for every row and KV head."""
    held = layer.tensors()["k"]
    same = (held[:, :, :, None] == k[:, :, None]).all(-1)  # [B, KV, held, L]
    assert (same.sum(-1) == 1).all()
    return same.int().argmax(-1).tolist()


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (8, 2), (8, 1)])
@pytest.mark.parametrize("prompt", [PROMPT, 41, 25])
def test_decoding_equals_its_definition(heads: int, kv_heads: int, prompt: int) -> None:
    q, k, v = draw(heads, kv_heads)
    out = torch.cat(read(make(), [q, k, v], prompt=prompt), 2)
    group = heads // kv_heads
    for b in range(2):
        for h in range(heads):
            g = h // group
            mine = q[b, g * group : (g + 1) * group, :prompt]
            kept = kept_tokens(mine, k[b, g, :prompt])
            for t in range(prompt - 1, q.shape[2]):
                sees = list(range(t + 1)) if t < prompt else kept + list(range(prompt, t + 1))
                expected = (k[b, g, sees] @ q[b, h, t] * SCALE).softmax(0) @ v[b, g, sees]
                torch.testing.assert_close(out[b, h, t], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("length", "held"), [(9, 9), (39, 39), (40, 40), (41, 40), (130, 40)])
def test_a_prompt_that_fits_is_kept_whole(length: int, held: int) -> None:
    q, k, v = draw(4, 2, length)
    layer = make()
    layer.attend(q, k, v, scale=SCALE)
    places = positions(layer, k)
    assert all(len(row) == held and row == sorted(row) for rows in places for row in rows)
    if length == held:
        assert places == [[list(range(length))] * 2] * 2


def test_keys_are_held_once_for_a_kv_head() -> None:
    q, k, v = draw(8, 2)
    layer = make()
    read(layer, [q, k, v])
    assert layer.nbytes == 2 * 2 * 2 * (30 + 10 + STEPS) * D * 8
    assert layer.seen == PROMPT + STEPS


@pytest.mark.parametrize(
    ("pool", "keep", "expected"), [(1, 1, [20]), (5, 5, [18, 19, 20, 21, 22]), (3, 3, [19, 20, 21])]
)
def test_what_the_last_queries_look_at_is_kept_with_its_neighbours(
    pool: int, keep: int, expected: list[int]
) -> None:
    """By hand: the window looks at token 20, all other queries at token 5."""
    q, k, v = (t[:1] * 0.1 for t in draw(2, 1, 60))
    k[0, 0, 20, 0], k[0, 0, 5, 1] = 40.0, 40.0
    q[..., 0], q[..., 1] = 0.0, 1.0
    q[:, :, -10:, 0], q[:, :, -10:, 1] = 1.0, 0.0
    layer = make(pool=pool, keep=keep)
    layer.attend(q, k, v, scale=SCALE)
    assert positions(layer, k) == [[[*expected, *range(50, 60)]]]


def test_heads_of_a_group_vote_by_attention_not_by_score() -> None:
    """By hand: one head gives all to token 7; three spread over tokens 30 to 39, a tenth each."""
    q, k, v = (t[:1] * 0.01 for t in draw(4, 1, 60))
    k[0, 0, 7, 0] = 30.0
    k[0, 0, 30:40, 1] = 30.0
    q[:, 0, -10:, 0] = 1.0
    q[:, 1:, -10:, 1] = 100.0
    layer = make(pool=1, keep=1)
    layer.attend(q, k, v, scale=SCALE)
    # Votes: 1 / 4 for token 7, at most about 3 / 40 for the others, whose scores are far larger.
    assert positions(layer, k)[0][0][0] == 7


def test_only_the_first_piece_is_thinned_out() -> None:
    q, k, v = draw(4, 2)
    layer = make()
    layer.attend(*(t[:, :, :100] for t in (q, k, v)), scale=SCALE)
    first = positions(layer, k)
    out = layer.attend(*(t[:, :, 100:] for t in (q, k, v)), scale=SCALE)
    after = [*range(100, PROMPT + STEPS)]
    assert positions(layer, k) == [[[*head, *after] for head in row] for row in first]
    for t in (0, 30, 54):
        sees = [*first[1][1], *range(100, 101 + t)]
        expected = (k[1, 1, sees] @ q[1, 3, 100 + t] * SCALE).softmax(0) @ v[1, 1, sees]
        torch.testing.assert_close(out[1, 3, t], expected, atol=1e-10, rtol=0)


def test_the_whole_window_chooses_even_if_only_the_last_query_is_asked_for() -> None:
    q, k, v = draw(4, 2)
    one, all_of_them = make(), make()
    one.attend(q, k, v, scale=SCALE, last_only=True)
    all_of_them.attend(q, k, v, scale=SCALE)
    assert torch.equal(one.tensors()["k"], all_of_them.tensors()["k"])
    assert positions(one, k) != positions(_with_window(q, k, v, 1), k)


def _with_window(q: Tensor, k: Tensor, v: Tensor, window: int) -> SnapLayer:
    layer = make(window=window, keep=40 - window)
    layer.attend(q, k, v, scale=SCALE)
    return layer


def test_half_precision_chooses_in_float32() -> None:
    q, k, v = (t.to(torch.bfloat16) for t in draw(8, 2))
    layer = make()
    layer.attend(q, k, v, scale=SCALE)
    for b in range(2):
        for g in range(2):
            expected = kept_tokens(q[b, g * 4 : g * 4 + 4].double(), k[b, g].double())
            assert torch.equal(layer.tensors()["k"][b, g], k[b, g, expected])


def test_a_fork_shares_the_choice_and_no_more() -> None:
    tensors = draw(4, 2)
    layer = make()
    layer.attend(*(t[:, :, :PROMPT] for t in tensors), scale=SCALE)
    twin = layer.fork()
    read(twin, [t[:, :, PROMPT:] * 9 for t in tensors], prompt=1)
    rest = read(layer, [t[:, :, PROMPT:] for t in tensors], prompt=1)
    expected = read(make(), tensors)[1:]
    torch.testing.assert_close(torch.cat(rest, 2), torch.cat(expected, 2), atol=0, rtol=0)


@pytest.mark.parametrize("settings", [{"window": 0}, {"pool": 4}])
def test_settings_that_cannot_be(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="odd pool"):
        make(**settings)
