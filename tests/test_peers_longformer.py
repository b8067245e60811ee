"""Longformer made causal: the mask as drawn, and what it keeps and touches."""

import pytest
import torch
from peer_patterns import SCALE, count_keys, draw, full_attention, make, picture, place, weights

from cca_models.peers import record

MASK = [
    "#.........",
    "##........",
    "###.......",
    "####......",
    "#####.....",
    "##.###....",
    "##..###...",
    "##...###..",
    "##....###.",
    "##.....###",
]


@pytest.mark.parametrize("steps", [[10], [1] * 10, [4, 3, 1, 2]])
def test_sees_the_mask_as_drawn(steps: list[int]) -> None:
    layer = make("longformer", place(1, 1, 10), global_tokens=2, window=3)
    assert picture(weights(layer, 1, 10, steps)[0]) == MASK


def test_positions_are_true_ones() -> None:
    """Unlike StreamingLLM and LM-Infinite: where only first tokens are missing, nothing differs."""
    q, k, v = draw(4, 2, 24)
    layer = make("longformer", place(4, 2), global_tokens=4, window=20)
    out = layer.attend(q, k, v, scale=SCALE)
    torch.testing.assert_close(out, full_attention(q, k, v), atol=1e-12, rtol=0)


def test_keeps_global_tokens_and_a_window() -> None:
    q, k, v = draw(4, 2, 150)
    layer = make("longformer", place(4, 2), global_tokens=4, window=21)
    layer.attend(q, k, v, scale=SCALE)
    held = layer.tensors()
    assert torch.equal(held["first_k"], k[:, :, :4]) and torch.equal(held["k"], k[:, :, -20:])


def test_a_long_prompt_touches_only_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_keys(monkeypatch)
    q, k, v = draw(2, 1, 1000)
    make("longformer", place(2, 1), global_tokens=4, window=100).attend(q, k, v, scale=SCALE)
    assert 0 < max(counts) <= 4 + 99 + 100


def test_says_what_is_ours() -> None:
    peer = record("longformer")
    assert peer.needs_tuning and "causal" in peer.adapted and "causal" in peer.title
    # Their window is counted over both sides.
    assert peer.settings["window"] == 2 * 256
