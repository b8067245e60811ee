"""Rotary positions: transformers' frequencies, exact angles far out, the choice of the stretch."""

import math
from typing import Any

import pytest
import torch

from cca_models.errors import ContextTooLongError, UnsupportedModelError
from cca_models.rope import (
    MAX_STRETCH,
    Rotary,
    base_frequencies,
    rotate,
    stretch_factor,
    stretched_frequencies,
)

CONFIG: dict[str, Any] = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    "rope",
    [
        None,
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 4.0},
        {"type": "linear", "factor": 2.5},
        LLAMA3,
        {**LLAMA3, "factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 16.0},
        {name: value for name, value in LLAMA3.items() if not name.startswith("original")},
    ],
    ids=["none", "default", "linear", "older", "llama3", "llama3-other", "llama3-no-original"],
)
@pytest.mark.parametrize("nested", [True, False], ids=["rope_parameters", "rope_scaling"])
def test_frequencies_are_those_of_transformers(rope: dict[str, Any] | None, nested: bool) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    settings = dict(CONFIG)
    if nested:
        settings["rope_parameters"] = {"rope_theta": settings.pop("rope_theta"), **(rope or {})}
    else:
        settings["rope_scaling"] = rope
    # A copy: transformers writes into the mapping that it is given.
    given = {name: dict(v) if isinstance(v, dict) else v for name, v in settings.items()}
    exact = LlamaRotaryEmbedding(transformers.LlamaConfig(**given)).inv_freq
    ours = base_frequencies(settings)
    assert ours.dtype == torch.float32 and ours.shape == (32,)
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=0)
    if rope is None or "llama3" not in rope.values():
        assert torch.equal(ours, exact)


@pytest.mark.parametrize("kind", ["dynamic", "yarn", "longrope", "made-up"])
def test_other_rotary_types_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=kind) as caught:
        base_frequencies({**CONFIG, "rope_scaling": {"rope_type": kind, "factor": 2.0}})
    assert caught.value.hint


def test_within_the_trained_length_angles_are_those_of_transformers() -> None:
    """The last bit counts: angles that are more exact alone change logits by more than 1e-4."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    embedding = LlamaRotaryEmbedding(transformers.LlamaConfig(**CONFIG))
    places = torch.arange(5000, 5100)
    expected_cos, expected_sin = embedding(torch.zeros(1), places[None])
    rotary = Rotary(stretched_frequencies(CONFIG, 1))
    cos, sin = rotary.tables(5000, 100, dtype=torch.float32, device=torch.device("cpu"))
    assert torch.equal(cos, expected_cos[0])
    assert torch.equal(sin[:, 32:], expected_sin[0, :, 32:])
    assert torch.equal(sin[:, :32], -expected_sin[0, :, :32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_angles_far_out_do_not_suffer_from_the_dtype(dtype: torch.dtype) -> None:
    """In bfloat16 the frequencies themselves would be off by many turns out there."""
    position, length = 500_000, 3
    freq = stretched_frequencies(CONFIG, 64)
    cpu = torch.device("cpu")
    cos, sin = Rotary(freq).tables(position, length, dtype=dtype, device=cpu)
    assert cos.dtype == sin.dtype == dtype and cos.shape == sin.shape == (length, 64)
    for i in range(length):
        for j in range(32):
            angle = (position + i) * float(freq[j])
            close = {"abs": torch.finfo(dtype).eps}
            assert float(cos[i, j]) == pytest.approx(math.cos(angle), **close)
            assert float(cos[i, j + 32]) == float(cos[i, j])
            assert float(sin[i, j + 32]) == pytest.approx(math.sin(angle), **close)
            assert float(sin[i, j]) == -float(sin[i, j + 32])
    rough = freq.to(torch.bfloat16).double()
    assert ((rough - freq).abs() * position).max() > 2 * math.pi


def test_rotation_is_that_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q = torch.randn(2, 4, 7, 64, generator=torch.Generator().manual_seed(0))
    freq = base_frequencies(CONFIG).double()
    cos, sin = Rotary(freq).tables(90, 7, dtype=torch.float32, device=torch.device("cpu"))
    angle = torch.arange(90, 97).double()[:, None] * torch.cat([freq, freq])
    exact, _ = apply_rotary_pos_emb(q, q, angle.cos()[None].float(), angle.sin()[None].float())
    torch.testing.assert_close(rotate(q, cos, sin), exact, rtol=0, atol=1e-6)


def test_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotary = Rotary(stretched_frequencies(CONFIG, 16))

    def at(x: torch.Tensor, position: int) -> torch.Tensor:
        tables = rotary.tables(position, 1, dtype=torch.float64, device=torch.device("cpu"))
        return rotate(x, *tables)

    near, far = (float((at(q, p + 700) * at(k, p)).sum()) for p in (0, 120_000))
    assert near == pytest.approx(far, abs=1e-6)
    assert near != pytest.approx(float((at(q, 701) * at(k, 0)).sum()), abs=1e-6)


def test_the_stretch_is_as_large_as_it_must_be() -> None:
    trained = 100
    factors = [stretch_factor(tokens, trained) for tokens in range(1, MAX_STRETCH * trained + 1)]
    assert factors[:trained] == [1] * trained and factors == sorted(factors)
    for tokens, factor in enumerate(factors, start=1):
        assert tokens <= factor * trained < 2 * tokens + trained
    assert stretch_factor(MAX_STRETCH * trained, trained) == MAX_STRETCH
    with pytest.raises(ContextTooLongError, match=r"needs 6,407 .* reaches 6,400 \(7 over\)"):
        stretch_factor(6407, trained)


def test_stretched_frequencies_never_turn_faster() -> None:
    base = base_frequencies(CONFIG)
    assert torch.equal(stretched_frequencies(CONFIG, 1), base)
    for factor in (2, 16, MAX_STRETCH):
        stretched = stretched_frequencies(CONFIG, factor)
        assert stretched.dtype == torch.float64 and stretched.shape == base.shape
        assert bool((stretched > 0).all()) and bool(
            (stretched <= base.double() * (1 + 1e-12)).all()
        )
        assert bool((stretched.diff() < 0).all())
        # The slowest pair, which has not done a turn in training, is slowed down.
        assert stretched[-1] < base[-1]
