"""The engine on tiny checkpoints: equal to transformers, however the text is cut up."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import CCA, change_config, load_tiny, make_tiny_model, random_ids, tiny_surroundings

from cca_models.engine import LanguageModel
from cca_models.errors import (
    CheckpointError,
    ContextTooLongError,
    ModelError,
    UnsupportedModelError,
)

CONTEXT = 512


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=CONTEXT)


@pytest.fixture(scope="module")
def model(path: Path) -> LanguageModel:
    return load_tiny(path)


def every_logit(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    """Read a text in one go; logits of all tokens, [L, V]."""
    memory = model.new_memory(len(ids))
    with torch.inference_mode():
        states = model.decoder.forward(
            torch.tensor([ids]), memory.layers, memory.rotary, every=True
        )
        return model.decoder.logits(states)[0].clone()


def transformers_logits(path: Path, ids: list[int], attention: str) -> torch.Tensor:
    """Do the same with transformers; its model takes a CCACache where attention is "cca"."""
    transformers = pytest.importorskip("transformers")
    from cca_models import CCACache, register

    register()
    exact = transformers.LlamaForCausalLM.from_pretrained(
        path, attn_implementation=attention, dtype=torch.float32
    ).eval()
    options: dict[str, Any] = {"use_cache": False}
    if attention == "cca":
        options = {"past_key_values": CCACache(exact.config, cca=CCA)}
    with torch.no_grad():
        logits: torch.Tensor = exact(torch.tensor([ids]), **options).logits[0]
    return logits


def read(model: LanguageModel, ids: list[int], cuts: list[int]) -> Any:
    """Prefill in pieces that end at the cuts; give the memory."""
    memory = model.new_memory(len(ids) + 40)
    for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        model.prefill(memory, ids[start:end])
    return memory


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (6, 2), (4, 1)], ids=str)
def test_within_the_window_it_is_transformers(
    tmp_path: Path, heads: tuple[int, int], tied: bool
) -> None:
    path = make_tiny_checkpoint(
        tmp_path / "m", heads=heads[0], hidden=8 * heads[0], kv_heads=heads[1], tied=tied
    )
    model = load_tiny(path)
    for length in (1, 13, CCA.window):
        ids = random_ids(length, seed=length)
        exact = transformers_logits(path, ids, "sdpa")
        assert (every_logit(model, ids) - exact).abs().max() < 1e-4
        assert (model.prefill(model.new_memory(length), ids) - exact[-1]).abs().max() < 1e-4


@pytest.mark.parametrize("length", [63, 200])
def test_beyond_the_window_it_is_the_hook(path: Path, model: LanguageModel, length: int) -> None:
    ids = random_ids(length)
    ours = every_logit(model, ids)
    assert (ours - transformers_logits(path, ids, "cca")).abs().max() < 1e-4
    assert (ours - transformers_logits(path, ids, "sdpa")).abs().max() > 1e-2


def test_biases_and_llama3_positions(tmp_path: Path, path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    rope = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=48, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, attention_bias=True,
        mlp_bias=True, max_position_embeddings=256, initializer_range=0.2, rope_parameters=rope,
    )  # fmt: skip
    biased = transformers.LlamaForCausalLM(config)
    for name, value in biased.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value)
    biased.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(path / file, tmp_path)
    ids = random_ids(CCA.window)
    ours = every_logit(load_tiny(tmp_path), ids)
    assert (ours - transformers_logits(tmp_path, ids, "sdpa")).abs().max() < 1e-4


@pytest.mark.parametrize(
    "cuts", [[100], [3, 7, 8, 50, 51, 130], list(range(1, 150))],
    ids=["two", "uneven", "tokens"],
)  # fmt: skip
def test_cut_up_it_reads_the_same(model: LanguageModel, cuts: list[int]) -> None:
    ids, more = random_ids(150), random_ids(9, seed=1)
    whole, parts = read(model, ids, []), read(model, ids, cuts)
    assert whole.seen == parts.seen == 150 and whole.nbytes == parts.nbytes
    a, b = (model.prefill(memory.fork(), more) for memory in (whole, parts))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    first, second = (model.generate(memory, more, max_new_tokens=16) for memory in (whole, parts))
    assert first.text() == second.text() and first.tokens == second.tokens
    assert len(set(first.tokens)) > 1


@pytest.mark.parametrize("chunk", [1, 13, 64, 1000])
def test_chunk_size_and_progress(model: LanguageModel, chunk: int) -> None:
    ids, told = random_ids(130), []
    logits = model.prefill(
        model.new_memory(130), ids, chunk=chunk, on_chunk=lambda *done: told.append(done)
    )
    torch.testing.assert_close(logits, every_logit(model, ids)[-1], rtol=0, atol=1e-4)
    assert told == [(min(n, 130), 130) for n in range(chunk, 130 + chunk, chunk)]
    assert logits.dtype == torch.float32 and logits.shape == model.decoder.embedding.shape[:1]


def test_reading_can_be_stopped_after_a_chunk_and_go_on(model: LanguageModel) -> None:
    ids, memory = random_ids(150), model.new_memory(150)

    def stop(done: int, total: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.prefill(memory, ids, chunk=32, on_chunk=stop)
    assert memory.seen == 64
    logits = model.prefill(memory, ids[64:])
    torch.testing.assert_close(logits, every_logit(model, ids)[-1], rtol=0, atol=1e-4)


def test_capacity_decides_the_stretch(model: LanguageModel) -> None:
    sizes = (1, CONTEXT, CONTEXT + 1, 2 * CONTEXT, 2 * CONTEXT + 1)
    memories = {tokens: model.new_memory(tokens) for tokens in sizes}
    for tokens, memory in memories.items():
        assert memory.capacity == memory.stretch * CONTEXT >= tokens
    assert [memories[tokens].stretch for tokens in sizes[:4]] == [1, 1, 2, 2]
    assert memories[2 * CONTEXT + 1].stretch > 2
    base, same, other = (
        memories[tokens].rotary.frequencies for tokens in (1, CONTEXT, 2 * CONTEXT)
    )
    assert torch.equal(base, same) and not torch.equal(base, other)
    assert model.new_memory(model.max_tokens).capacity == model.max_tokens
    with pytest.raises(ContextTooLongError, match="1 over"):
        model.new_memory(model.max_tokens + 1)


def test_room_given_as_capacity_changes_nothing_else(model: LanguageModel) -> None:
    ids = random_ids(200)
    small, large = (model.prefill(model.new_memory(n), ids) for n in (1, CONTEXT))
    assert torch.equal(small, large)


def test_too_long_or_empty_leaves_the_memory_alone(model: LanguageModel) -> None:
    memory = model.new_memory(CONTEXT)
    model.prefill(memory, random_ids(500))
    before = model.prefill(memory.fork(), [5])
    with pytest.raises(ContextTooLongError, match=r"needs 513 tokens, .* holds 512 \(1 over\)"):
        model.prefill(memory, random_ids(13))
    with pytest.raises(ContextTooLongError):
        model.generate(memory, [5], max_new_tokens=12)
    with pytest.raises(ValueError, match="at least one token"):
        model.prefill(memory, [])
    assert memory.seen == 500
    assert torch.equal(model.prefill(memory.fork(), [5]), before)
    model.prefill(memory, random_ids(12))
    assert memory.seen == CONTEXT


def test_positions_do_not_suffer_from_the_dtype(path: Path, model: LanguageModel) -> None:
    half = load_tiny(path, dtype="bf16")
    assert half.dtype == torch.bfloat16
    stretched = 64 * CONTEXT
    assert torch.equal(
        half.new_memory(stretched).rotary.frequencies,
        model.new_memory(stretched).rotary.frequencies,
    )
    ids = random_ids(400)
    a, b = (m.prefill(m.new_memory(stretched), ids) for m in (half, model))
    assert a.dtype == torch.float32
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.99


def test_fingerprint_names_all_that_shapes_a_memory(tmp_path: Path, path: Path) -> None:
    from cca_models.config import CCAConfig

    other = make_tiny_checkpoint(tmp_path / "tiny", context=CONTEXT, seed=1)
    models = [
        load_tiny(path),
        load_tiny(other),
        load_tiny(path, dtype="bf16"),
        load_tiny(path, cca=CCAConfig(group_size=8, window=32)),
        load_tiny(path, cca=CCAConfig(group_size=4, window=64)),
    ]
    assert len({m.fingerprint for m in models}) == len(models)
    assert load_tiny(path).fingerprint == models[0].fingerprint


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"hidden_act": "gelu"}, UnsupportedModelError, "gelu"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, UnsupportedModelError, "yarn"),
        ({"num_hidden_layers": 3}, CheckpointError, "layers.2"),
        ({"num_key_value_heads": 4}, CheckpointError, "shape"),
    ],
)  # fmt: skip
def test_what_the_engine_cannot_load(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    path = change_config(make_tiny_checkpoint(tmp_path / "m"), **changes)
    with pytest.raises(error, match=says):
        load_tiny(path)


def test_devices_and_dtypes_that_are_not_there(path: Path) -> None:
    from cca_models.checkpoints import resolve_checkpoint
    from cca_models.engine import load_model

    checkpoint = resolve_checkpoint(str(path))
    for options in ({"device": "abacus"}, {"device": "cuda:99"}, {"dtype": "int3"}):
        with pytest.raises(ModelError) as caught:
            load_model(checkpoint, **options)
        assert caught.value.hint


def test_estimates_grow_with_the_text(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "m")
    assert model.estimate_seconds(1000) > 0
    once, twice, later = model.flops(1000), model.flops(2000), model.flops(1000, start=100_000)
    assert 2 * once < twice and once < later
