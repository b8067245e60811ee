"""The byte-level BPE tokenizer inside a GGUF file, as tokenizer.json and tokenizer_config.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from cca_models.errors import UnsupportedModelError
from cca_models.tokenizer_patterns import PRE_TOKENIZERS, PreTokenizer

# Token types of the GGUF specification.
_CONTROL = 3
_USER_DEFINED = 4


def tokenizer_json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of tokenizer.json for a GGUF file's metadata.

    Raises:
        UnsupportedModelError: If the tokenizer is not a byte-level BPE that is known here.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UnsupportedModelError(
            f"the GGUF file's tokenizer is {kind!r}, not a byte-level BPE (gpt2)",
            hint="give the checkpoint as a directory with safetensors and tokenizer.json",
        )
    cutting = _pre_tokenizer(metadata.get("tokenizer.ggml.pre", "default"))
    tokens: Sequence[str] = metadata["tokenizer.ggml.tokens"]
    types: Sequence[int] = metadata.get("tokenizer.ggml.token_type", ())
    added = [
        {
            "id": token,
            "content": tokens[token],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for token, kind in enumerate(types)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": cutting.normalizer,
        "pre_tokenizer": cutting.spec,
        "post_processor": _beginning(metadata),
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": cutting.ignore_merges,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of tokenizer_config.json for a GGUF file's metadata."""
    tokens: Sequence[str] = metadata["tokenizer.ggml.tokens"]
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None and 0 <= number < len(tokens):
            config[f"{name}_token"] = tokens[number]
    if template := metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    if context := metadata.get("llama.context_length"):
        config["model_max_length"] = context
    return config


def _pre_tokenizer(name: str) -> PreTokenizer:
    for candidate in PRE_TOKENIZERS:
        if name in candidate.ggml_names:
            return candidate
    known = sorted(name for candidate in PRE_TOKENIZERS for name in candidate.ggml_names)
    raise UnsupportedModelError(
        f"the GGUF file's pre-tokeniser {name!r} is not known (known: {', '.join(known)})",
        hint="give the checkpoint as a directory with safetensors and tokenizer.json",
    )


def _beginning(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the post-processor that puts the first token in front, where the model wants it."""
    number = metadata.get("tokenizer.ggml.bos_token_id")
    if not metadata.get("tokenizer.ggml.add_bos_token") or number is None:
        return None
    token = metadata["tokenizer.ggml.tokens"][number]
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
