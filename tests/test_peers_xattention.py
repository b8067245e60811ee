"""XAttention: antidiagonals and the choice of blocks worked by hand, and its gathered blocks."""

import pytest
import torch
from test_peers import place
from torch import Tensor

from cca_models.peers import oracle, record
from cca_models.peers import xattention as module


def prompt(length: int, *, heads: int = 4, kv_heads: int = 2, rows: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(length)
    return [
        torch.randn(rows, h, length, 8, generator=random, dtype=torch.float64) * 1.5
        for h in (heads, kv_heads, kv_heads)
    ]


def test_tiles_are_scored_along_their_antidiagonal() -> None:
    """Blocks of one tile: the mass is the softmax of the sums over i + j = stride - 1."""
    q, k, _ = prompt(12, heads=1, kv_heads=1)
    layer = module.XAttentionLayer(block=4, stride=4, threshold=0.5)
    mass = layer._mass(q, k, scale=0.7)[0, 0]
    score = (q @ k.transpose(-1, -2))[0, 0] * 0.7 / 4
    row = [sum(score[4 + 3 - t, 4 * tile + t] for t in range(4)) for tile in range(2)]
    torch.testing.assert_close(mass[1], torch.stack([*torch.stack(row).softmax(0), mass[0, 1]]))
    assert mass[0].tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(mass.sum(-1), torch.ones(3, dtype=torch.float64))


def test_blocks_are_taken_until_they_hold_the_threshold() -> None:
    row = torch.tensor([0.05, 0.10, 0.40, 0.05, 0.30, 0.10])
    mass = torch.eye(6)
    mass[5] = row
    mass = mass[None, None]

    def chosen(threshold: float) -> list[int]:
        return module._heaviest(mass, threshold)[0, 0, 5].nonzero().flatten().tolist()

    # The first block and one's own hold 0.15, with the heaviest other 0.55, with the next 0.85.
    assert chosen(0.14) == [0, 5]
    assert chosen(0.16) == chosen(0.54) == [0, 2, 5]
    assert chosen(0.56) == chosen(0.84) == [0, 2, 4, 5]
    assert chosen(0.86) == [0, 1, 2, 4, 5]
    assert chosen(1.01) == [0, 1, 2, 3, 4, 5]


def test_no_block_of_the_future_is_chosen() -> None:
    chosen = module._heaviest(torch.rand(2, 3, 7, 7), 1.01)
    assert torch.equal(chosen, oracle.causal(7).expand(2, 3, 7, 7))


@pytest.mark.parametrize("length", [129, 200, 301, 320])
@pytest.mark.parametrize("scored", [1, 3])
def test_gathered_blocks_equal_the_oracle(
    monkeypatch: pytest.MonkeyPatch, length: int, scored: int
) -> None:
    """Lengths that no tile and no block divides, scored in parts, a KV head at a time."""
    monkeypatch.setattr(module, "_SCORED", scored)
    monkeypatch.setattr("cca_models.peers.prompt_sparse._ENTRIES", 1)
    gathers = []
    gathered = module.gathered
    monkeypatch.setattr(
        module, "gathered", lambda *a, **k: gathers.append(a[3].shape) or gathered(*a, **k)
    )
    q, k, v = prompt(length, heads=6, kv_heads=3, rows=2)
    settings = {"block": 16, "stride": 8, "threshold": 0.4}
    actual = record("xattention").make(place(6, 3), **settings).attend(q, k, v, scale=0.4)
    exact = record("xattention").oracle(q, k, v, scale=0.4, place=place(6, 3), **settings)
    torch.testing.assert_close(actual, exact, atol=1e-9, rtol=1e-9)
    assert gathers and {shape[1] for shape in gathers} == {2}


@pytest.mark.parametrize(("length", "threshold"), [(32, 0.0), (150, 1.01)])
def test_full_attention_at_the_limits(length: int, threshold: float) -> None:
    """Two blocks are the first one and one's own; a threshold past 1 takes every block."""
    q, k, v = prompt(length)
    layer = record("xattention").make(place(4, 2), block=16, stride=4, threshold=threshold)
    full = oracle.by_mask(q, k, v, oracle.causal(length), scale=0.4)
    torch.testing.assert_close(layer.attend(q, k, v, scale=0.4), full, atol=1e-9, rtol=1e-9)


def test_without_a_threshold_the_forced_blocks_are_left() -> None:
    q, k, v = prompt(80)
    layer = record("xattention").make(place(4, 2), block=16, stride=4, threshold=0.0)
    block = torch.arange(80) // 16
    mask = (block[None] == block[:, None]) | (block[None] == 0)
    exact = oracle.by_mask(q, k, v, mask, scale=0.4)
    torch.testing.assert_close(layer.attend(q, k, v, scale=0.4), exact, atol=1e-9, rtol=1e-9)


def test_a_stride_must_divide_the_block() -> None:
    with pytest.raises(ValueError, match="divides"):
        record("xattention").make(place(1, 1), block=16, stride=5, threshold=0.9)
