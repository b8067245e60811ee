"""The engine on the default model itself, held against transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cca_models.checkpoints import resolve_checkpoint
from cca_models.config import CCAConfig
from cca_models.engine import LanguageModel, load_model

# A long English text that does not change.
TEXT = Path(__file__).parents[1] / "LICENSE"
ATOL = 1e-4


@pytest.fixture(scope="module")
def model() -> Iterator[LanguageModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        checkpoint = resolve_checkpoint("smollm2-135m-instruct", adapter="none")
    yield load_model(checkpoint, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def exact(model: LanguageModel) -> Any:
    """transformers' model, untouched."""
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaForCausalLM.from_pretrained(
        model.checkpoint.path, attn_implementation="sdpa", dtype=torch.float32
    ).eval()


def every_logit(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    memory = model.new_memory(len(ids))
    with torch.inference_mode():
        states = model.decoder.forward(
            torch.tensor([ids]), memory.layers, memory.rotary, every=True
        )
        return model.decoder.logits(states)[0]


@pytest.mark.parametrize("length", [400, 1024])
def test_up_to_the_window_it_is_transformers(model: LanguageModel, exact: Any, length: int) -> None:
    assert length <= model.cca.window == 1024
    talk = [{"role": "user", "content": TEXT.read_text()}]
    ids = model.tokenizer.encode_prompt(model.tokenizer.chat(talk))[:length]
    assert len(ids) == length
    with torch.inference_mode():
        expected = exact(torch.tensor([ids]), use_cache=False).logits[0]
        assert (every_logit(model, ids) - expected).abs().max() < ATOL
    last = model.prefill(model.new_memory(length), ids, chunk=300)
    assert (last - expected[-1]).abs().max() < ATOL


def test_beyond_the_window_it_is_the_hook(model: LanguageModel, exact: Any) -> None:
    from cca_models import CCACache, register

    cca = CCAConfig(group_size=8, window=64)
    small = LanguageModel(model.checkpoint, model.tokenizer, model.decoder, cca=cca)
    ids = model.tokenizer.encode(TEXT.read_text())[:230]
    ours = every_logit(small, ids)
    register()
    exact.set_attn_implementation("cca")
    try:
        cache = CCACache(exact.config, cca=cca)
        with torch.inference_mode():
            hooked = exact(torch.tensor([ids]), past_key_values=cache).logits[0]
    finally:
        exact.set_attn_implementation("sdpa")
    assert (ours - hooked).abs().max() < ATOL
    assert (ours - every_logit(model, ids)).abs().max() > 0.1


def test_it_answers(model: LanguageModel) -> None:
    talk = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    ids = model.tokenizer.encode_prompt(model.tokenizer.chat(talk))
    generation = model.generate(model.new_memory(64), ids, max_new_tokens=16)
    assert "capital of France is Paris" in generation.text()
    assert generation.finish == "eos" and len(generation.logprobs) == len(generation.tokens) + 1
