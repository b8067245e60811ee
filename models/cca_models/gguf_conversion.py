"""From a GGUF file of the LLaMA architecture to a checkpoint directory in Hugging Face's layout.

Weights are written as float32 up to a billion parameters: no dequantised value changes (a quantised
weight is a product of two half-precision numbers and fits no narrower type), and the CPU, which
computes in float32, maps the file into memory without touching it. The price is disk space, 538 MB
for SmolLM2-135M. Larger models are written as float16, which rounds by at most 0.05 %.

GGUF stores the rows of the query and key projections in another order, because llama.cpp rotates
neighbouring pairs of dimensions where transformers rotates the two halves; `_halves_order` undoes
that.
"""

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_models.errors import CheckpointError, UnsupportedModelError
from cca_models.gguf_tokenizer import tokenizer_config, tokenizer_json
from cca_models.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader, ReaderTensor

_FLOAT32_PARAMETERS = 1 << 30

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    name: str
    shape: tuple[int, ...]
    load: Callable[[], "np.ndarray[Any, Any]"]


def convert_gguf(source: Path, target: Path, *, progress: Progress | None = None) -> None:
    """Write the checkpoint in the GGUF file `source` to the existing empty directory `target`.

    Every file is flushed to disk. What is left in `target` after an error is for the caller to
    remove.

    Raises:
        CheckpointError: If the file is damaged or misses what a checkpoint needs.
        UnsupportedModelError: If it is no LLaMA, or its tokenizer is not known.
        OSError: If it cannot be read or the disk is full.
    """
    if progress:
        # Reading a vocabulary of any size takes seconds.
        progress("convert", 0, 0)
    reader = _open(source)
    try:
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        architecture = metadata.get("general.architecture")
        if architecture != "llama" or metadata.get("llama.expert_count"):
            found = "a mixture of experts" if architecture == "llama" else repr(architecture)
            raise UnsupportedModelError(
                f"{source.name}: the model is {found}, not a dense LLaMA",
                hint="cca models ls shows the checkpoints that are there",
            )
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        config = _model_config(metadata, tensors)
        _write_json(target / "config.json", config)
        _write_json(target / "generation_config.json", _generation_config(metadata))
        _write_json(target / "tokenizer.json", tokenizer_json(metadata))
        _write_json(target / "tokenizer_config.json", tokenizer_config(metadata))
        entries = list(_entries(tensors, config))
        _write_safetensors(target / "model.safetensors", entries, config["torch_dtype"], progress)
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{source.name}: the GGUF file is incomplete, it lacks {error}",
            hint="download the file again",
        ) from error


def _open(source: Path) -> "GGUFReader":
    # Brings numpy; half the start-up time of a command that converts nothing.
    from gguf import GGUFReader

    try:
        return GGUFReader(source)
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{source}: not a readable GGUF file, or one that was cut off ({error})",
            hint="download the file again",
        ) from error


def _model_config(
    metadata: Mapping[str, Any], tensors: Mapping[str, "ReaderTensor"]
) -> dict[str, Any]:
    hidden = int(metadata["llama.embedding_length"])
    heads = int(metadata["llama.attention.head_count"])
    head_dim = int(metadata.get("llama.attention.key_length", hidden // heads))
    rotated = int(metadata.get("llama.rope.dimension_count", head_dim))
    if rotated != head_dim:
        raise UnsupportedModelError(
            f"only {rotated} of {head_dim} dimensions of a head are rotated",
            hint="only checkpoints with the LLaMA architecture as published can be read",
        )
    parameters = sum(int(tensor.n_elements) for tensor in tensors.values())
    theta = _short_float(metadata.get("llama.rope.freq_base", 10000.0))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "attention_dropout": 0.0,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": int(metadata["llama.feed_forward_length"]),
        "max_position_embeddings": int(metadata["llama.context_length"]),
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "num_attention_heads": heads,
        "num_hidden_layers": int(metadata["llama.block_count"]),
        "num_key_value_heads": int(metadata.get("llama.attention.head_count_kv", heads)),
        "rms_norm_eps": _short_float(metadata["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(metadata, tensors, theta, head_dim),
        "tie_word_embeddings": "output.weight" not in tensors,
        "torch_dtype": "float32" if parameters <= _FLOAT32_PARAMETERS else "float16",
        "use_cache": True,
        "vocab_size": int(tensors["token_embd.weight"].shape[-1]),
    }


def _generation_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return {name: number for name, number in found.items() if number is not None}


def _rope_scaling(
    metadata: Mapping[str, Any], tensors: Mapping[str, "ReaderTensor"], theta: float, head_dim: int
) -> dict[str, Any] | None:
    if "rope_freqs.weight" in tensors:
        return _llama3_scaling(tensors["rope_freqs.weight"], theta, head_dim)
    kind = metadata.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return None
    factor = float(metadata["llama.rope.scaling.factor"])
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        trained = int(metadata["llama.rope.scaling.original_context_length"])
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": trained,
        }
    raise UnsupportedModelError(
        f"rope scaling {kind!r} is not known",
        hint="only linear, yarn and llama3 scaling can be read from GGUF files",
    )


def _llama3_scaling(frequencies: "ReaderTensor", theta: float, head_dim: int) -> dict[str, Any]:
    """Recover LLaMA 3.1's four numbers from the divisors that llama.cpp derives from them."""
    import numpy as np

    divisors = np.asarray(frequencies.data, dtype=np.float64).ravel()
    factor, low, high, trained = float(divisors.max()), 1.0, 4.0, 8192
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((trained / wavelength - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-3):
        raise UnsupportedModelError(
            "the file's rope frequencies are not those of LLaMA 3.1",
            hint="give the checkpoint as a directory with safetensors and config.json",
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": trained,
    }


def _entries(tensors: Mapping[str, "ReaderTensor"], config: Mapping[str, Any]) -> Iterator[_Entry]:
    for name, tensor in tensors.items():
        if name == "rope_freqs.weight":
            continue
        parts = name.split(".")
        block, part = (parts[1], parts[2]) if parts[0] == "blk" else ("", parts[0])
        if part not in _NAMES or parts[-1] not in ("weight", "bias"):
            raise UnsupportedModelError(
                f"the GGUF file holds {name}, which is not part of a LLaMA",
                hint="only checkpoints with the LLaMA architecture as published can be read",
            )
        prefix = f"model.layers.{block}." if block else ""
        heads = {
            "attn_q": config["num_attention_heads"],
            "attn_k": config["num_key_value_heads"],
        }.get(part, 0)
        yield _Entry(
            name=f"{prefix}{_NAMES[part]}.{parts[-1]}",
            # GGUF counts dimensions from the innermost.
            shape=tuple(int(size) for size in reversed(tensor.shape)),
            load=_loader(tensor, heads),
        )


def _loader(tensor: "ReaderTensor", heads: int) -> Callable[[], "np.ndarray[Any, Any]"]:
    def load() -> "np.ndarray[Any, Any]":
        from gguf import dequantize

        values = dequantize(tensor.data, tensor.tensor_type)
        return _halves_order(values, heads) if heads else values

    return load


def _halves_order(rows: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """Reorder each head's rows from neighbouring pairs to first halves, then second halves."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _write_safetensors(
    path: Path, entries: list[_Entry], dtype: str, progress: Progress | None
) -> None:
    """Write one tensor after the other, so that memory holds one and not the model."""
    import numpy as np

    width, code = (4, "F32") if dtype == "float32" else (2, "F16")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    for entry in entries:
        size = width * int(np.prod(entry.shape))
        header[entry.name] = {
            "dtype": code,
            "shape": list(entry.shape),
            "data_offsets": [total, total + size],
        }
        total += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        done = 0
        for entry in entries:
            values = entry.load().astype(f"<f{width}", copy=False).reshape(entry.shape)
            file.write(np.ascontiguousarray(values).data)
            done += values.nbytes
            if progress:
                progress("convert", done, total)
        file.flush()
        os.fsync(file.fileno())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    # A vocabulary is nothing to look at, and indented it would be three times as long.
    indent = None if path.name == "tokenizer.json" else 2
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=indent)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _short_float(value: float) -> float:
    """Return the shortest decimal that names the same float32: 1e-05, not 9.999999747e-06."""
    import numpy as np

    return float(str(np.float32(value)))
