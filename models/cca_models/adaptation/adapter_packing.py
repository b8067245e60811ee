"""An adapter's weights in a smaller type."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cca_models.adaptation.model_card import CARD_FILE
from cca_models.adapters.adapter_files import WEIGHTS_FILE
from cca_models.adapters.lora_config import CONFIG_FILE
from cca_models.adapters.peft_names import A, B
from cca_models.adapters.settings import SETTINGS_FILE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


def pack_adapter(source: Path, target: Path, *, dtype: str) -> int:
    """Copy an adapter in a smaller type; gives the bytes of its weights.

    In float8 (e4m3) every row of a matrix keeps three bits behind its leading one; PEFT reads it
    as it reads any other type. Small values would fall below its range, so each pair A, B is
    brought to equal size first: the product stays as it was.

    Raises:
        KeyError: If `dtype` is none of `DTYPES`.
        OSError: If a file is missing or cannot be written.
    """
    weights = load_file(source / WEIGHTS_FILE)
    target.mkdir(parents=True, exist_ok=True)
    kind = DTYPES[dtype]
    packed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(A):
            other = name.removesuffix(A) + B
            a, b = tensor.float(), weights[other].float()
            # One number a rank: how far row i of A and column i of B are from each other.
            scale = (b.norm(dim=0) / a.norm(dim=1).clamp(min=1e-12)).clamp(min=1e-12).sqrt()
            a, b = a * scale[:, None], b / scale
            packed[name] = a.to(kind)
            packed[other] = b.to(kind)
        elif not name.endswith(B):
            packed[name] = tensor.to(torch.bfloat16 if dtype == "fp8" else kind)
    file = target / WEIGHTS_FILE
    save_file(packed, file, metadata={"format": "pt"})
    for name in (CONFIG_FILE, SETTINGS_FILE, CARD_FILE):
        (target / name).write_bytes((source / name).read_bytes())
    return file.stat().st_size
