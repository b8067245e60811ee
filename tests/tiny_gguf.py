"""A tiny checkpoint as a GGUF file, written as llama.cpp's converter does."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

_PARTS = {
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


def write_gguf(source: Path, target: Path, *, quantised: bool = False, **change: Any) -> Path:
    """Write a tiny checkpoint as GGUF, in llama.cpp's order of rows."""
    config = json.loads((source / "config.json").read_text())
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(target, change.get("arch", "llama"))
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model(change.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(change.get("pre", "smollm"))
    names = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    writer.add_token_list(names)
    writer.add_token_types([3] * 3 + [1] * (len(names) - 3))
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    template = json.loads((source / "tokenizer_config.json").read_text())["chat_template"]
    writer.add_chat_template(template)
    if "experts" in change:
        writer.add_expert_count(change["experts"])
    parts = {ours: theirs for theirs, ours in _PARTS.items()}
    for name, values in load_file(source / "model.safetensors").items():
        where, _, kind = name.rpartition(".")
        layer, _, part = where.removeprefix("model.layers.").partition(".")
        new = f"blk.{layer}.{parts[part]}.{kind}" if part in parts else f"{parts[where]}.{kind}"
        for head_part, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if head_part in name:
                halves = values.reshape(count, 2, -1, values.shape[1])
                values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        if quantised and values.ndim == 2:
            kind_8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(new, gguf.quantize(values, kind_8), raw_dtype=kind_8)
        else:
            writer.add_tensor(new, values)
    for name, values in change.get("tensors", {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
