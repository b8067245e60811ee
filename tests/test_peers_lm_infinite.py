"""LM-Infinite: one distance for all first tokens, worked by hand; what it keeps and touches."""

import math

import pytest
import torch
from peer_patterns import SCALE, count_keys, draw, full_attention, make, place

from cca_models.peers.lm_infinite import LMInfiniteLayer
from cca_models.rope import Rotary, rotate

S, W, N = 2, 4, 16


def one_vector_everywhere(name: str, **settings: int) -> torch.Tensor:
    """Weights of the last of 16 queries, where all unrotated queries and keys are ones."""
    where = place(1, 1)
    tables = Rotary(where.frequencies).tables(0, N, dtype=torch.float64, device=torch.device("cpu"))
    x = rotate(torch.ones(1, 1, N, 16, dtype=torch.float64), *tables)
    layer = make(name, where, **settings)
    return layer.attend(x, x, torch.eye(N, dtype=torch.float64)[None, None], scale=SCALE)[0, 0, -1]


def test_no_distance_is_larger_than_the_window() -> None:
    frequencies = [10000.0 ** (-n / 8) for n in range(8)]
    # The product of ones and ones turned by a distance is 2 cos of the angle for every pair.
    score = {d: SCALE * sum(2 * math.cos(d * f) for f in frequencies) for d in range(W + 1)}
    distances = {15: 0, 14: 1, 13: 2, 12: 3, 0: W, 1: W}
    total = sum(math.exp(score[d]) for d in distances.values())
    expected = torch.zeros(N, dtype=torch.float64)
    for j, d in distances.items():
        expected[j] = math.exp(score[d]) / total
    actual = one_vector_everywhere("lm-infinite", global_tokens=S, window=W)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


def test_streaming_llm_keeps_the_differences_between_first_tokens() -> None:
    ours = one_vector_everywhere("lm-infinite", global_tokens=S, window=W)
    theirs = one_vector_everywhere("streaming-llm", sinks=S, window=W)
    assert abs(float(ours[0] - ours[1])) < 1e-12
    assert abs(float(theirs[0] - theirs[1])) > 1e-3


def test_is_full_attention_until_a_distance_is_cut() -> None:
    """The first token at distance W itself stands where it should; one further does not."""
    q, k, v = draw(4, 2, W + 2)
    layer = make("lm-infinite", place(4, 2), global_tokens=S, window=W)
    error = (layer.attend(q, k, v, scale=SCALE) - full_attention(q, k, v)).abs().amax((0, 1, 3))
    assert error[: W + 1].max() < 1e-12
    assert error[W + 1] > 1e-3


@pytest.mark.parametrize("steps", [[150], [1] * 150, [3, 40, 1, 106]])
def test_keeps_first_tokens_and_what_the_next_query_sees(steps: list[int]) -> None:
    q, k, v = draw(4, 2, 150)
    layer = make("lm-infinite", place(4, 2), global_tokens=5, window=23)
    for part in zip(*(t.split(steps, 2) for t in (q, k, v)), strict=True):
        layer.attend(*part, scale=SCALE)
    held = layer.tensors()
    assert held["first_k"].shape[2] == held["first_v"].shape[2] == 5
    assert torch.equal(held["k"], k[:, :, -22:]) and torch.equal(held["v"], v[:, :, -22:])
    back = rotate(
        held["first_k"],
        *Rotary(place(4, 2).frequencies).tables(
            0, 5, dtype=torch.float64, device=torch.device("cpu")
        ),
    )
    torch.testing.assert_close(back, k[:, :, :5], atol=1e-12, rtol=0)


def test_a_long_prompt_touches_only_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_keys(monkeypatch)
    q, k, v = draw(2, 1, 1000)
    make("lm-infinite", place(2, 1), global_tokens=5, window=23).attend(q, k, v, scale=SCALE)
    assert 0 < max(counts) <= 5 + 22 + 64


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.bfloat16, 0.006)])
def test_queries_come_back_from_afar(dtype: torch.dtype, error: float) -> None:
    """Turned in float32 the angle would be off by 0.004, in bfloat16 by whole turns."""
    where, W = place(2, 2), 8
    layer = make("lm-infinite", where, global_tokens=2, window=W)
    assert isinstance(layer, LMInfiniteLayer)
    rotary = Rotary(where.frequencies)
    x = torch.rand(1, 2, 1, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    far, near = (
        rotate(x, *rotary.tables(p, 1, dtype=torch.float64, device=x.device)) for p in (100_000, W)
    )
    back = layer.far_queries(far.to(dtype), 100_000)
    assert back.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(back.double(), near, atol=error, rtol=0)


@pytest.mark.parametrize("settings", [{"global_tokens": -1}, {"window": 0}])
def test_refuses_what_is_no_size(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected first >= 0 and window >= 1"):
        make("lm-infinite", place(2, 1), **{"global_tokens": 1, "window": 8, **settings})
