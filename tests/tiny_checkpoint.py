"""A random LLaMA checkpoint in the Hugging Face layout, made in a fraction of a second.

Needs numpy, safetensors and tokenizers; imports neither torch nor transformers.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CORPUS = (
    "The keeper of the lighthouse wrote down the weather every evening before the lamp was lit.",
    "Who inherits the estate? The nephew inherits the estate, and the sister keeps the garden.",
    "On page 12 the report says that the bridge was closed in 1987 and opened again in 1990.",
    "Answer the question from the document. If the document does not say, write: not found.",
    "She said that the letters were in the drawer, and that nobody had read them for years.",
    "Summarise the section in three sentences, and name the people, the places and the dates.",
)


def make_tiny_checkpoint(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    seed: int = 0,
    vocab_size: int = 400,
    context: int = 512,
    tied: bool = True,
) -> Path:
    """Write a random LLaMA directory to `path` and return it.

    The tokenizer is a byte-level BPE trained on a few sentences, pre-tokenised as SmolLM2's is;
    token 1 opens a message of the chat template and token 2 ends it.
    """
    path.mkdir(parents=True, exist_ok=True)
    vocab_size = _write_tokenizer(path, vocab_size, context)
    _write_json(
        path / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            "head_dim": hidden // heads,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "initializer_range": 0.02,
            "intermediate_size": 2 * hidden,
            "max_position_embeddings": context,
            "mlp_bias": False,
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": kv_heads,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "tie_word_embeddings": tied,
            "torch_dtype": "float32",
            "use_cache": True,
            "vocab_size": vocab_size,
        },
    )
    _write_json(
        path / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "do_sample": False},
    )
    save_file(
        _random_weights(layers, hidden, heads, kv_heads, vocab_size, seed, tied),
        path / "model.safetensors",
        metadata={"format": "pt"},
    )
    return path


def _random_weights(
    layers: int, hidden: int, heads: int, kv_heads: int, vocab_size: int, seed: int, tied: bool
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    def norm() -> np.ndarray:
        return (1 + 0.1 * rng.standard_normal(hidden)).astype(np.float32)

    head_dim = hidden // heads
    weights = {"model.embed_tokens.weight": matrix(vocab_size, hidden), "model.norm.weight": norm()}
    if not tied:
        weights["lm_head.weight"] = matrix(vocab_size, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        weights[prefix + "input_layernorm.weight"] = norm()
        weights[prefix + "post_attention_layernorm.weight"] = norm()
        weights[prefix + "self_attn.q_proj.weight"] = matrix(heads * head_dim, hidden)
        weights[prefix + "self_attn.k_proj.weight"] = matrix(kv_heads * head_dim, hidden)
        weights[prefix + "self_attn.v_proj.weight"] = matrix(kv_heads * head_dim, hidden)
        weights[prefix + "self_attn.o_proj.weight"] = matrix(hidden, heads * head_dim)
        weights[prefix + "mlp.gate_proj.weight"] = matrix(2 * hidden, hidden)
        weights[prefix + "mlp.up_proj.weight"] = matrix(2 * hidden, hidden)
        weights[prefix + "mlp.down_proj.weight"] = matrix(hidden, 2 * hidden)
    return weights


def _write_tokenizer(path: Path, vocab_size: int, context: int) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    _write_json(
        path / "tokenizer_config.json",
        {
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": context,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    return int(tokenizer.get_vocab_size())


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
