"""Transformers' own LLaMA around weights that are there already, as a baseline to compare with."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel


def dense_model_of(model: "LanguageModel") -> Any:
    """Build transformers' model around a loaded model's tensors, an adapter's merge included.

    Its positions are those of the adapter's fixed base; without one they are the checkpoint's own,
    unstretched. Angles are transformers' own, in float32.
    """
    return dense_model(model.rope.dense_config(model.checkpoint.config), model.decoder.weights)


def dense_model(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Build transformers' model around tensors that are there already; nothing is copied."""
    # Five seconds of imports, for the baseline alone.
    from transformers import AutoModelForCausalLM, LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    settings = LlamaConfig.from_dict(dict(config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
    model.load_state_dict(dict(weights), strict=False, assign=True)
    model.tie_weights()
    # Its frequencies are no weights: made on the CPU in float32, as from_pretrained makes them.
    device = weights["model.embed_tokens.weight"].device
    model.model.rotary_emb = LlamaRotaryEmbedding(settings).to(device)
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if missing:
        raise ValueError(f"expected all weights of the config, got none for {missing[0]}")
    return model.eval()


def attention_kernel(name: str) -> AbstractContextManager[Any]:
    """Choose among torch's attention kernels: its own choice, or cuDNN's where it can run."""
    if not name:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    return sdpa_kernel(order, set_priority=True)
