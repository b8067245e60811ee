"""NSA: its three branches one by one, by hand, and what is particular to them."""

from typing import Any

import pytest
import torch
from peer_blocks import Peer, draw, numbered, place
from torch import Tensor

from cca_models.peers import blocks, nsa
from cca_models.peers.nsa import RECORD

SETTINGS = {"block": 4, "count": 3, "window": 6, "initial": 1, "local": 1}
POOLED, CHOSEN, WINDOW = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
PEER = Peer(RECORD, SETTINGS, scale=1.0)
read, by_definition = PEER.read, PEER.by_definition


def test_pooled_blocks_are_seen_once_they_are_full() -> None:
    q = k = torch.zeros(1, 1, 10, 2, dtype=torch.float64)
    out = read(q, k, numbered(10), gates=POOLED)[0, 0, :, 0]
    # Means of 0..3 and 4..7; before token 3 there is no block, and the branch gives nothing.
    expected = [0.0] * 3 + [1.5] * 4 + [(1.5 + 5.5) / 2] * 3
    assert out.tolist() == expected


def test_pooled_branch_by_hand() -> None:
    k = torch.zeros(1, 1, 8, 2, dtype=torch.float64)
    k[0, 0, :4, 0] = torch.tensor([1.0, 2.0, 3.0, 6.0])
    q = torch.zeros_like(k)
    q[..., 0] = 0.5
    out = read(q, k, numbered(8), gates=POOLED)[0, 0, 7, 0]
    # Mean keys 3 and 0: scores 1.5 and 0.
    first, second = torch.tensor([1.5, 0.0], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(out, first * 1.5 + second * 5.5)


def test_the_window_counts_the_query_itself() -> None:
    q = k = torch.zeros(1, 1, 12, 2, dtype=torch.float64)
    out = read(q, k, numbered(12), gates=WINDOW, window=3)[0, 0, :, 0]
    assert out.tolist() == [0.0, 0.5, *range(1, 11)]


def test_chosen_blocks_are_the_first_the_own_and_the_best() -> None:
    k = torch.zeros(1, 1, 20, 2, dtype=torch.float64)
    k[0, 0, 8:12, 0] = 3.0  # block 2
    q = torch.zeros_like(k)
    q[..., 0] = 1.0
    out = read(q, k, numbered(20), gates=CHOSEN)[0, 0, 17, 0]
    tokens = torch.tensor([*range(4), *range(8, 12), 16, 17], dtype=torch.float64)
    weight = torch.tensor([0.0] * 4 + [3.0] * 4 + [0.0] * 2, dtype=torch.float64).softmax(0)
    torch.testing.assert_close(out, (weight * tokens).sum())


def test_equal_blocks_are_taken_in_order() -> None:
    q = k = torch.zeros(1, 1, 40, 2, dtype=torch.float64)
    v = numbered(40)
    out = read(q, k, v, gates=CHOSEN, count=4)
    torch.testing.assert_close(out, by_definition(q, k, v, gates=CHOSEN, count=4))
    # All pooled keys are alike: after the first and the own block come 1 and 2.
    mean = torch.tensor([*range(12), *range(36, 40)]).double().mean()
    torch.testing.assert_close(out[0, 0, 39, 0], mean)


def test_heads_of_a_group_choose_together() -> None:
    """A block that one head wants much can outweigh one that the other wants a little."""
    k = torch.zeros(1, 1, 20, 2, dtype=torch.float64)
    k[0, 0, 4:8, 0] = 1.0  # block 1, wanted by head 0
    k[0, 0, 8:12, 1] = 1.0  # block 2, wanted by head 1
    q = torch.zeros(1, 2, 20, 2, dtype=torch.float64)
    q[0, 0, :, 0], q[0, 1, :, 1] = 9.0, 2.0
    v = torch.zeros_like(k)
    v[0, 0, 8:12] = 1.0
    together = read(q, k, v, gates=CHOSEN)[0, :, 19]
    alone = read(q[:, 1:], k, v, gates=CHOSEN)[0, :, 19]
    assert together.abs().max() == 0
    assert alone.abs().min() > 0.5


def test_gates_add_the_branches_up() -> None:
    q, k, v = draw(4, 2, 50)
    sum_of_three = sum(
        gate * read(q, k, v, gates=one)
        for gate, one in zip((0.2, 0.5, 0.9), (POOLED, CHOSEN, WINDOW), strict=True)
    )
    torch.testing.assert_close(read(q, k, v, gates=(0.2, 0.5, 0.9)), sum_of_three)


@pytest.mark.parametrize(
    "settings",
    [
        {"count": 16},
        {"count": 2, "initial": 0, "local": 2},
        {"count": 1, "initial": 0},
        {"window": 1},
        {"window": 500, "block": 7},
        {"block": 64},
    ],
)
def test_settings(settings: dict[str, Any]) -> None:
    q, k, v = draw(6, 2, 61)
    expected = by_definition(q, k, v, gates=(0.3, 0.4, 0.8), **settings)
    for steps in ((61,), (30, 1, 1, 17, 12)):
        out = read(q, k, v, steps, gates=(0.3, 0.4, 0.8), **settings)
        torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("crowd", [0, 10**6])
def test_both_ways_of_reading_chosen_blocks(crowd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the block, from the queries that chose it; and by the query, from gathered keys."""
    q, k, v = draw(4, 2, 61)
    monkeypatch.setattr(nsa, "_CROWD", {"cpu": crowd})
    expected = by_definition(q, k, v, gates=CHOSEN)
    for steps in ((61,), (30, 1, 1, 17, 12)):
        out = read(q, k, v, steps, gates=CHOSEN)
        torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-10)


def test_rows_may_be_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = draw(4, 2, 61)
    monkeypatch.setattr(nsa, "_CROWD", {"cpu": 10**6})
    expected = by_definition(q, k, v, gates=(1.0, 1.0, 1.0))
    monkeypatch.setattr(nsa, "_ROWS", 23)
    monkeypatch.setattr(nsa, "_GATHERED", 5 * 2 * 2 * 12 * 8)
    out = read(q, k, v, gates=(1.0, 1.0, 1.0))
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-10)


def test_a_step_gathers_the_chosen_blocks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = draw(4, 2, 61)
    layer = RECORD.make(place(4, 2, 8), **SETTINGS, gates=(1.0, 1.0, 1.0))
    layer.attend(*(t[:, :, :60] for t in (q, k, v)), scale=1.0)
    taken = []

    def gather(x: Tensor, tokens: Tensor) -> Tensor:
        taken.append(tokens.shape)
        return blocks_gather(x, tokens)

    blocks_gather = blocks.gather
    monkeypatch.setattr(blocks, "gather", gather)
    layer.attend(*(t[:, :, 60:] for t in (q, k, v)), scale=1.0)
    assert taken == [(2, 2, 1, 3 * 4)] * 2


def test_means_are_held_and_counted() -> None:
    q, k, v = draw(4, 2, 61)
    layer = RECORD.make(place(4, 2, 8), **SETTINGS, gates=POOLED)
    layer.attend(q, k, v, scale=1.0)
    assert layer.tensors()["mean_k"].shape == layer.tensors()["mean_v"].shape == (2, 2, 15, 8)
    assert layer.nbytes == k.nbytes + v.nbytes + 2 * (2 * 2 * 15 * 8 * 8)


@pytest.mark.parametrize(
    "wrong", [{"local": 0}, {"count": 1}, {"initial": 3}, {"gates": (1.0, 1.0)}]
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RECORD.make(place(4, 2, 8), **{**SETTINGS, "gates": POOLED, **wrong})
