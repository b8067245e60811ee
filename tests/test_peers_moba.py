"""MoBA: its choice of blocks by hand, and its two ways of generating."""

import pytest
import torch
from peer_blocks import Peer, draw, numbered, place
from torch import Tensor

from cca_models.peers import blocks, moba, oracle
from cca_models.peers.moba import RECORD

SETTINGS = {"block": 4, "count": 2, "sparse_decode": False}
PEER = Peer(RECORD, SETTINGS, scale=0.5)
read, by_definition = PEER.read, PEER.by_definition


def full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return oracle.by_mask(q, k, v, oracle.causal(q.shape[2]), scale=0.5)


def test_the_own_block_and_the_best_by_mean_key() -> None:
    k = torch.zeros(1, 1, 20, 2, dtype=torch.float64)
    # Block 1 has the largest key, block 2 the largest mean.
    k[0, 0, 4, 0], k[0, 0, 8:12, 0] = 6.0, 2.0
    q = torch.zeros_like(k)
    q[..., 0] = 1.0
    out = read(q, k, numbered(20))[0, 0, 17, 0]
    tokens = torch.tensor([*range(8, 12), 16, 17], dtype=torch.float64)
    weight = torch.tensor([1.0] * 4 + [0.0] * 2, dtype=torch.float64).softmax(0)
    torch.testing.assert_close(out, (weight * tokens).sum())


def test_the_own_block_is_one_of_the_count() -> None:
    q = k = torch.zeros(1, 1, 12, 2, dtype=torch.float64)
    out = read(q, k, numbered(12), count=1)[0, 0, :, 0]
    assert out.tolist() == [0, 0.5, 1, 1.5, 4, 4.5, 5, 5.5, 8, 8.5, 9, 9.5]


@pytest.mark.parametrize("steps", [(40,), (37, 1, 1, 1)])
def test_equal_blocks_are_taken_in_order(steps: tuple[int, ...]) -> None:
    q = k = torch.zeros(1, 1, 40, 2, dtype=torch.float64)
    v = numbered(40)
    out = read(q, k, v, steps, count=3, sparse_decode=True)
    torch.testing.assert_close(out, by_definition(q, k, v, count=3))
    mean = torch.tensor([*range(8), *range(36, 40)]).double().mean()
    torch.testing.assert_close(out[0, 0, 39, 0], mean)


def test_every_query_head_chooses_for_itself() -> None:
    q, k, v = draw(4, 1, 40)
    together = read(q, k, v)
    for head in range(4):
        alone = read(q[:, head : head + 1], k, v)
        torch.testing.assert_close(together[:, head : head + 1], alone)


def test_the_scale_does_not_change_the_choice() -> None:
    """Tiny scale: attention is a plain mean over chosen tokens, wherever they are."""
    q, k, _ = draw(1, 1, 40)
    v = torch.eye(40, dtype=torch.float64).expand(2, 1, 40, 40)
    layer = RECORD.make(place(1, 1, 8), **SETTINGS)
    q, k = torch.nn.functional.pad(q, (0, 32)), torch.nn.functional.pad(k, (0, 32))
    read_at = layer.attend(q, k, v, scale=1e-9) > 1e-6
    torch.testing.assert_close(read_at, by_definition(q, k, v) > 0)
    assert read_at[:, :, 39].sum(-1).tolist() == [[8], [8]]


@pytest.mark.parametrize("steps", [(60, 37, 53), (2,) * 75, (149 - 7, 8)])
def test_prompts_may_be_read_in_pieces(steps: tuple[int, ...]) -> None:
    q, k, v = draw(4, 2, 150)
    expected = by_definition(q, k, v)
    torch.testing.assert_close(read(q, k, v, steps), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("count", [1, 2, 3, 12, 60])
@pytest.mark.parametrize("steps", [(60, 1, 1, 37, 51), (1,) * 150, (149, 1)])
def test_sparse_generation_goes_on_as_the_prompt(steps: tuple[int, ...], count: int) -> None:
    q, k, v = draw(4, 2, 150)
    out = read(q, k, v, steps, count=count, sparse_decode=True)
    expected = by_definition(q, k, v, count=count)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-10)


def test_generation_is_dense_as_in_the_release() -> None:
    q, k, v = draw(4, 2, 150)
    out = read(q, k, v, (140, *[1] * 10))
    torch.testing.assert_close(out[:, :, :140], by_definition(q, k, v)[:, :, :140])
    torch.testing.assert_close(out[:, :, 140:], full(q, k, v)[:, :, 140:])
    assert RECORD.settings["sparse_decode"] is False and RECORD.decode == "dense"


def test_the_last_query_of_a_prompt_is_no_step_of_generation() -> None:
    q, k, v = draw(4, 2, 150)
    layer = RECORD.make(place(4, 2, 8), **SETTINGS)
    last = layer.attend(q, k, v, scale=0.5, last_only=True)
    torch.testing.assert_close(last, by_definition(q, k, v)[:, :, -1:])


def test_rows_may_be_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = draw(4, 2, 61)
    expected = by_definition(q, k, v, count=3)
    monkeypatch.setattr(moba, "_ROWS", 23)
    monkeypatch.setattr(blocks, "SCORES", 2 * 4 * 4 * 5)
    torch.testing.assert_close(read(q, k, v, count=3), expected, atol=1e-10, rtol=1e-10)


def test_full_attention_up_to_count_blocks() -> None:
    """`shortest` of the record is this, at the authors' settings."""
    q, k, v = draw(4, 2, 20)
    torch.testing.assert_close(read(q, k, v, count=5), full(q, k, v))
    q, k, v = draw(4, 2, 21)
    assert (read(q, k, v, count=5) - full(q, k, v))[:, :, -1].abs().max() > 1e-4
    assert RECORD.shortest == RECORD.settings["block"] * RECORD.settings["count"]


def test_a_sparse_step_gathers_no_more_than_the_group_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v = draw(4, 2, 61)
    layer = RECORD.make(place(4, 2, 8), **{**SETTINGS, "sparse_decode": True})
    layer.attend(*(t[:, :, :60] for t in (q, k, v)), scale=0.5)
    taken = []

    def gather(x: Tensor, tokens: Tensor) -> Tensor:
        taken.append(tokens.shape)
        return blocks_gather(x, tokens)

    blocks_gather = blocks.gather
    monkeypatch.setattr(blocks, "gather", gather)
    layer.attend(*(t[:, :, 60:] for t in (q, k, v)), scale=0.5)
    # Two heads of two blocks each; 16 blocks are held.
    assert taken == [(2, 2, 1, 2 * 2 * 4)] * 2


def test_means_are_held_and_counted() -> None:
    q, k, v = draw(4, 2, 61)
    layer = RECORD.make(place(4, 2, 8), **SETTINGS)
    layer.attend(q, k, v, scale=0.5)
    torch.testing.assert_close(layer.tensors()["means"][:, :, 3], k[:, :, 12:16].mean(2))
    assert layer.nbytes == k.nbytes + v.nbytes + 2 * 2 * 15 * 8 * 8


def test_no_block_is_no_setting() -> None:
    with pytest.raises(ValueError, match="expected count >= 1"):
        RECORD.make(place(4, 2, 8), **{**SETTINGS, "count": 0})
