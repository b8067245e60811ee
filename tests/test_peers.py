"""Every attention against its oracle in float64, and what must hold for all of them."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peer_settings import SMALL
from torch import Tensor

from cca_models.peers import AttentionRecord, Place, records
from cca_models.peers.past import Past

NAMES = sorted(records())
LENGTH, D = 150, 16
FREQUENCIES = 10000.0 ** (-torch.arange(D // 2, dtype=torch.float64) * 2 / D)


def place(heads: int, kv_heads: int, *, layer: int = 3) -> Place:
    return Place(
        layer=layer, layers=6, heads=heads, kv_heads=kv_heads, head_dim=D, frequencies=FREQUENCIES
    )


def draw(heads: int = 4, kv_heads: int = 2, *, rows: int = 1, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(rows, h, LENGTH, D, generator=random, dtype=torch.float64) * 1.5
        for h in (heads, kv_heads, kv_heads)
    ]


def read(
    peer: AttentionRecord,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    steps: Sequence[int],
    *,
    layer: Any = None,
) -> Tensor:
    """Read step by step; with a layer, go on from it."""
    layer = layer or peer.make(place(q.shape[1], k.shape[1]), **SMALL[peer.name])
    parts, at = [], 0
    for step in steps:
        part = slice(at, at + step)
        parts.append(layer.attend(q[:, :, part], k[:, :, part], v[:, :, part], scale=0.4))
        at += step
    assert layer.seen == at or steps is not LENGTH
    return torch.cat(parts, 2)


def expected(peer: AttentionRecord, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    where = place(q.shape[1], k.shape[1])
    return peer.oracle(q, k, v, scale=0.4, place=where, **SMALL[peer.name])


@pytest.fixture(params=NAMES)
def peer(request: pytest.FixtureRequest) -> AttentionRecord:
    return records()[request.param]


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1), (8, 1), (4, 2)])
def test_equals_its_oracle(peer: AttentionRecord, heads: int, kv_heads: int) -> None:
    q, k, v = draw(heads, kv_heads)
    actual = read(peer, q, k, v, [LENGTH])
    torch.testing.assert_close(actual, expected(peer, q, k, v), atol=1e-9, rtol=1e-9)


def test_does_not_simply_see_everything(peer: AttentionRecord) -> None:
    """With the tests' settings every approximation must differ from full attention."""
    q, k, v = draw()
    actual = expected(peer, q, k, v)
    if peer.prefill == "dense":
        # What it leaves out, it leaves out of decoding.
        actual = read(peer, q, k, v, [LENGTH - 20, *[1] * 20])
    far = actual - expected(records()["full"], q, k, v)
    assert bool(far.abs().max() > 1e-3) is not peer.exact


def test_is_causal(peer: AttentionRecord) -> None:
    q, k, v = draw()
    cut = 90
    if peer.incremental:
        before = read(peer, q, k, v, [LENGTH])[:, :, :cut]
        q, k, v = (t.clone() for t in (q, k, v))
        for t, other in zip((q, k, v), draw(seed=1), strict=True):
            t[:, :, cut:] = other[:, :, cut:]
        after = read(peer, q, k, v, [LENGTH])[:, :, :cut]
        torch.testing.assert_close(after, before, atol=1e-9, rtol=1e-9)
    else:
        # What is chosen may hang on the prompt's end, but no value may come from the future.
        v = v.clone().requires_grad_()
        out = expected(peer, q, k, v)[:, :, :cut]
        (gradient,) = torch.autograd.grad((out * out).sum(), v)
        assert gradient[:, :, :cut].abs().max() > 0
        assert gradient[:, :, cut:].abs().max() == 0


@pytest.mark.parametrize("steps", [(60, 1, 1, 37, 51), (1,) * LENGTH])
def test_pieces_give_what_the_whole_gives(peer: AttentionRecord, steps: Sequence[int]) -> None:
    if not peer.incremental:
        pytest.skip("by its definition what it keeps hangs on where the prompt ends")
    q, k, v = draw()
    torch.testing.assert_close(
        read(peer, q, k, v, steps), expected(peer, q, k, v), atol=1e-9, rtol=1e-9
    )


def test_rows_do_not_know_of_each_other(peer: AttentionRecord) -> None:
    q, k, v = draw(rows=3)
    together = read(peer, q, k, v, [LENGTH - 9, *[1] * 9])
    for row in range(3):
        alone = read(peer, *(t[row : row + 1] for t in (q, k, v)), [LENGTH - 9, *[1] * 9])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-9, rtol=1e-9)


def test_the_last_query_alone(peer: AttentionRecord) -> None:
    q, k, v = draw()
    layer = peer.make(place(4, 2), **SMALL[peer.name])
    last = layer.attend(q, k, v, scale=0.4, last_only=True)
    torch.testing.assert_close(last, read(peer, q, k, v, [LENGTH])[:, :, -1:], atol=1e-9, rtol=1e-9)


def test_a_fork_goes_its_own_way(peer: AttentionRecord) -> None:
    q, k, v = draw()
    layer = peer.make(place(4, 2), **SMALL[peer.name])
    read(peer, *(t[:, :, :100] for t in (q, k, v)), [100], layer=layer)
    twin = layer.fork()
    other = draw(seed=2)
    rest = [t[:, :, 100:] for t in (q, k, v)]
    expected_rest = read(peer, *rest, [1] * 50, layer=layer.fork())
    read(peer, *(t[:, :, 100:] for t in other), [1] * 50, layer=twin)
    actual = read(peer, *rest, [1] * 50, layer=layer)
    torch.testing.assert_close(actual, expected_rest, atol=1e-12, rtol=0)
    assert layer.seen == twin.seen == LENGTH


def test_short_texts_are_full_attention(peer: AttentionRecord) -> None:
    """`shortest`, with the authors' settings: below it, nothing is left out."""
    if not peer.shortest or peer.needs_tuning:
        pytest.skip("it is never full attention, or is so only once trained")
    length = min(peer.shortest, 96)
    q, k, v = (t[:, :, :length] for t in draw())
    layer = peer.make(place(4, 2), **peer.settings)
    out = layer.attend(q, k, v, scale=0.4)
    dense = records()["full"].oracle(q, k, v, scale=0.4, place=place(4, 2))
    torch.testing.assert_close(out, dense, atol=1e-9, rtol=1e-9)


def test_keeps_what_its_record_says(peer: AttentionRecord) -> None:
    q, k, v = draw()
    layer = peer.make(place(4, 2), **SMALL[peer.name])
    read(peer, q, k, v, [LENGTH - 20, *[1] * 20], layer=layer)
    everything = k.nbytes + v.nbytes
    assert layer.nbytes == sum(t.nbytes for t in layer.tensors().values())
    if peer.kv_kept == "all":
        assert layer.nbytes >= everything
    else:
        assert layer.nbytes < everything


def test_half_precision(peer: AttentionRecord) -> None:
    q, k, v = draw()
    exact = expected(peer, *(t.to(torch.bfloat16).double() for t in (q, k, v)))
    half = read(peer, *(t.to(torch.bfloat16) for t in (q, k, v)), [LENGTH])
    assert half.dtype == torch.bfloat16
    # A choice may fall otherwise where scores are close; most outputs must agree.
    near = (half.double() - exact).abs().amax(-1) < 0.05
    assert near.double().mean() > 0.9


def test_records_are_complete(peer: AttentionRecord) -> None:
    assert peer.name == peer.name.lower() and " " not in peer.name
    assert peer.title and peer.paper and ("arXiv" in peer.paper or "transformers" in peer.paper)
    assert set(SMALL[peer.name]) == set(peer.settings)
    if peer.needs_tuning:
        assert not peer.exact
    # What reads prompts in one way and generates in another is neither.
    assert peer.incremental or peer.whole_prompt or peer.prefill != peer.decode


def test_room_that_is_expected_is_made_at_once() -> None:
    past = Past()
    past.expected = 100
    pieces = torch.arange(96.0).view(1, 1, 96, 1).split(32, 2)
    for piece in pieces:
        past.append(piece, -piece)
    held = past.k.untyped_storage()
    assert held.nbytes() == 100 * 4 and past.k.flatten().tolist() == list(range(96))
    more = torch.full((1, 1, 8, 1), 7.0)
    past.append(more, more)  # more than was expected
    assert len(past) == 104 and past.v.flatten().tolist()[:96] == [-x for x in range(96)]
