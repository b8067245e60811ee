"""BigBird made causal: the fixed blocks as drawn, the random ones, and what is touched."""

import pytest
import torch
from peer_patterns import SCALE, count_keys, draw, full_attention, make, picture, place, weights

from cca_models.peers import record
from cca_models.peers.bigbird import random_blocks

FIXED = [
    "#.............",
    "##............",
    "###...........",
    "####..........",
    "#####.........",
    "######........",
    "##..###.......",
    "##..####......",
    "##....###.....",
    "##....####....",
    "##......###...",
    "##......####..",
    "##........###.",
    "##........####",
]


@pytest.mark.parametrize("steps", [[14], [1] * 14, [5, 2, 1, 6]])
def test_fixed_blocks_as_drawn(steps: list[int]) -> None:
    layer = make("bigbird", place(1, 1, 14), block=2, random_blocks=0)
    assert picture(weights(layer, 1, 14, steps)[0]) == FIXED


@pytest.mark.parametrize("count", [1, 3])
def test_random_blocks_are_others_than_the_fixed_ones(count: int) -> None:
    drawn = random_blocks(0, 5, 8, row=0, rows=60, count=count)
    for head in drawn.tolist():
        for r, blocks in enumerate(head):
            chosen = {b for b in blocks if b}
            assert len(chosen) == min(count, max(0, r - 2))
            assert chosen <= set(range(1, r - 1))


def test_every_block_is_drawn_alike() -> None:
    """64 heads, 100 layers: 19,200 draws for row 52, 384 for each of its 50 blocks."""
    drawn = [random_blocks(0, layer, 64, row=52, rows=1, count=3) for layer in range(100)]
    counts = torch.bincount(torch.stack(drawn).flatten(), minlength=51)[1:]
    assert counts.numel() == 50
    # Five standard deviations.
    assert (counts - 384).abs().max() < 5 * 384**0.5


def test_draws_hang_on_seed_layer_head_and_row_alone() -> None:
    whole = random_blocks(0, 1, 4, row=0, rows=100, count=3)
    assert torch.equal(random_blocks(0, 1, 2, row=0, rows=100, count=3), whole[:2])
    assert torch.equal(random_blocks(0, 1, 4, row=37, rows=5, count=3), whole[:, 37:42])
    later = slice(20, None)
    for other in (
        random_blocks(1, 1, 4, row=0, rows=100, count=3),
        random_blocks(0, 2, 4, row=0, rows=100, count=3),
        whole.roll(1, 0),
    ):
        assert (other[:, later] == whole[:, later]).double().mean() < 0.2


def test_heads_that_share_keys_draw_for_themselves() -> None:
    a, b = (
        weights(make("bigbird", place(2, 2, 120, seed=seed), block=4, random_blocks=2), 2, 120)
        for seed in (0, 1)
    )
    assert picture(a[0]) != picture(a[1]) and picture(a[0]) != picture(b[0])


def test_is_full_attention_while_all_blocks_are_seen() -> None:
    """Rows 0 to 5, with three random blocks: 6 blocks of 8; in row 6 one of four is missing."""
    q, k, v = draw(4, 2, 56)
    layer = make("bigbird", place(4, 2), block=8, random_blocks=3)
    error = (layer.attend(q, k, v, scale=SCALE) - full_attention(q, k, v)).abs().amax((0, 1, 3))
    assert error[:48].max() < 1e-12
    assert error[48:].min() > 1e-6
    peer = record("bigbird")
    assert peer.shortest == 6 * peer.settings["block"] and peer.settings["random_blocks"] == 3


def test_a_long_prompt_touches_only_the_blocks_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_keys(monkeypatch)
    layer = make("bigbird", place(2, 1), block=8, random_blocks=3)
    layer.attend(*draw(2, 1, 2000), scale=SCALE)
    assert counts == [6 * 8] * 2


def test_a_token_sees_its_own_block_only_up_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make("bigbird", place(2, 1), block=8, random_blocks=3)
    counts = count_keys(monkeypatch)
    for part in zip(*(t.split([800, 1, 1, 1], 2) for t in draw(2, 1, 803)), strict=True):
        layer.attend(*part, scale=SCALE)
    assert counts[-3:] == [41, 42, 43]


@pytest.mark.parametrize("settings", [{"block": 0}, {"random_blocks": -1}])
def test_refuses_what_is_no_size(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected block >= 1 and random_blocks >= 0"):
        make("bigbird", place(2, 1), **{"block": 8, "random_blocks": 2, **settings})
