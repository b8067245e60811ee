"""The default model itself: obtained as a user obtains it, held against transformers."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import SAMPLES

from cca_models.checkpoints import Checkpoint, resolve_checkpoint
from cca_models.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Checkpoint]:
    with pytest.MonkeyPatch.context() as patch:
        # The rest of the tests asks no hub; this model does not come from one.
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        yield resolve_checkpoint("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return load_tokenizer(checkpoint.path)


@pytest.fixture(scope="module")
def exact(checkpoint: Checkpoint) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(checkpoint.path)


def test_configuration_is_the_published_one(checkpoint: Checkpoint) -> None:
    published = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    }
    assert {name: checkpoint.config[name] for name in published} == published
    assert checkpoint.trained_tokens == 8192


def test_it_speaks_english(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Rows in the wrong order would still give words, but none that follow one another."""
    transformers = pytest.importorskip("transformers")
    import torch

    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.path, output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    talk = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    prompt = tokenizer.encode_prompt(tokenizer.chat(talk))
    with torch.no_grad():
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0]
        loss = model(
            torch.tensor([tokenizer.encode(PROSE)]), labels=torch.tensor([tokenizer.encode(PROSE)])
        ).loss
    assert "capital of France is Paris" in tokenizer.decode(ids[len(prompt) :].tolist())
    assert ids[-1].item() in tokenizer.eos_ids
    # 4.76 with the rows of queries and keys as they lie in the GGUF file.
    assert loss.item() == pytest.approx(3.399, abs=0.01)


PROSE = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must be in want of a wife. However little known the feelings or views of such a man may be "
    "on his first entering a neighbourhood, this truth is so well fixed in the minds of the "
    "surrounding families, that he is considered the rightful property of some one or other of "
    "their daughters."
)


@pytest.mark.parametrize("name", SAMPLES)
def test_tokens_are_those_of_transformers(tokenizer: Tokenizer, exact: Any, name: str) -> None:
    text = SAMPLES[name]
    expected = exact(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.encode(text) == expected
    assert tokenizer.encode_prompt(text) == exact(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(expected) == exact.decode(expected, skip_special_tokens=True)


@settings(max_examples=200, deadline=None)
@given(
    text=st.text() | st.text("ab1 .'\n\r\t½Ⅷ٣éе\u0301中👍\u200d\u00a0\x04\U00050000", max_size=80)
)
def test_random_text_has_the_tokens_of_transformers(
    tokenizer: Tokenizer, exact: Any, text: str
) -> None:
    encoded = exact.backend_tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.encode_with_offsets(text) == (encoded.ids, [s for s, _ in encoded.offsets])


@pytest.mark.parametrize("ready", [True, False])
def test_chat_is_that_of_transformers(tokenizer: Tokenizer, exact: Any, ready: bool) -> None:
    talks = [
        [{"role": "user", "content": "Who keeps the light?"}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "  Hi <b>&amp;</b>\n"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Who?"},
        ],
    ]
    for talk in talks:
        text = tokenizer.chat(talk, add_generation_prompt=ready)
        assert text == exact.apply_chat_template(talk, tokenize=False, add_generation_prompt=ready)
        expected = exact.apply_chat_template(
            talk, tokenize=True, add_generation_prompt=ready, return_dict=True
        )
        assert tokenizer.encode_prompt(text) == expected["input_ids"]


def test_it_works_through_tiktoken_and_loads_quickly(
    checkpoint: Checkpoint, tokenizer: Tokenizer
) -> None:
    assert (tokenizer.backend, tokenizer.warning) == ("tiktoken", None)
    assert tokenizer.eos_ids == {2}
    assert tokenizer.vocab_size == 49152
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        load_tokenizer(Path(checkpoint.path))
        taken.append(time.perf_counter() - start)
    # 0.08 s on an idle machine.
    assert min(taken) < 0.4
