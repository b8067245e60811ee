"""LongLoRA's shifted sparse attention: blocks by hand, the cut, and what comes after a prompt."""

import pytest
import torch
from peer_patterns import SCALE, count_keys, draw, full_attention, make, picture, place, weights

from cca_models.peers import record

RATIO = 0.25


def blocks(*sizes: int) -> list[str]:
    """Draw causal blocks of these sizes."""
    rows, before = [], 0
    for size in sizes:
        for n in range(size):
            rows.append("." * before + "#" * (n + 1) + "." * (sum(sizes) - before - n - 1))
        before += size
    return rows


@pytest.mark.parametrize(
    ("length", "plain", "shifted"),
    [
        (16, (4, 4, 4, 4), (2, 4, 4, 4, 2)),
        (10, (3, 3, 3, 1), (1, 3, 3, 3)),
        (14, (4, 4, 4, 2), (2, 4, 4, 4)),
        (3, (1, 1, 1), (1, 1, 1)),
        (1, (1,), (1,)),
    ],
)
def test_blocks_by_hand(length: int, plain: tuple[int, ...], shifted: tuple[int, ...]) -> None:
    layer = make("longlora", place(4, 4, length + length % 2), group_ratio=RATIO)
    seen = [picture(head) for head in weights(layer, 4, length)]
    assert seen == [blocks(*plain)] * 2 + [blocks(*shifted)] * 2


def test_the_start_of_a_text_does_not_see_its_end() -> None:
    """Rolled around instead of cut, the first half-block would share one with the last."""
    q, k, v = draw(4, 2, 64)
    other = [t.clone() for t in (k, v)]
    for t in other:
        t[:, :, 56:] += 1
    outs = [
        make("longlora", place(4, 2), group_ratio=RATIO).attend(q, *kv, scale=SCALE)
        for kv in ((k, v), other)
    ]
    assert torch.equal(outs[0][:, :, :56], outs[1][:, :, :56])
    assert not torch.equal(outs[0][:, :, 56:], outs[1][:, :, 56:])


@pytest.mark.parametrize("steps", [[60, 1, 1, 1, 1], [60, 4], [60, 1, 3]])
def test_after_a_prompt_everything_is_seen(steps: list[int]) -> None:
    q, k, v = draw(4, 2, 64)
    layer = make("longlora", place(4, 2), group_ratio=RATIO)
    parts = zip(*(t.split(steps, 2) for t in (q, k, v)), strict=True)
    out = torch.cat([layer.attend(*part, scale=SCALE) for part in parts], 2)
    full = full_attention(q, k, v)
    torch.testing.assert_close(out[:, :, 60:], full[:, :, 60:], atol=1e-12, rtol=0)
    assert (out - full)[:, :, 30:60].abs().max() > 1e-3


@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (3, 3), (6, 1), (12, 4), (1, 1)])
def test_halves_of_heads_that_cut_a_group(heads: int, kv_heads: int) -> None:
    """An odd number of heads: the smaller half is not shifted. The authors need an even one."""
    q, k, v = draw(heads, kv_heads, 50)
    where = place(heads, kv_heads)
    out = make("longlora", where, group_ratio=RATIO).attend(q, k, v, scale=SCALE)
    oracle = record("longlora").oracle(q, k, v, scale=SCALE, place=where, group_ratio=RATIO)
    torch.testing.assert_close(out, oracle, atol=1e-12, rtol=0)


def test_a_prompt_touches_only_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_keys(monkeypatch)
    q, k, v = draw(2, 1, 400)
    make("longlora", place(2, 1), group_ratio=RATIO).attend(q, k, v, scale=SCALE)
    assert sorted(counts) == [50, 50] + [100] * 7


def test_says_that_it_is_for_training() -> None:
    peer = record("longlora")
    assert peer.prefill == "training" and peer.decode == "dense"
    assert peer.whole_prompt and not peer.incremental and peer.needs_tuning


@pytest.mark.parametrize("ratio", [0.0, 1.5])
def test_refuses_what_is_no_ratio(ratio: float) -> None:
    with pytest.raises(ValueError, match="expected group_ratio in"):
        make("longlora", place(2, 1), group_ratio=ratio)
