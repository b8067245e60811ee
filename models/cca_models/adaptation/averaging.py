"""The weighted mean of adapters of one base, as one adapter ("model soup").

Models that were trained differently from one beginning often do better averaged than each does
alone (Wortsman et al., ICML 2022). Of LoRA the change of each weight is averaged,
sum_i share_i scale_i B_i A_i, not the factors: two trainings turn those differently. The rank of
the first adapter keeps what it can of that sum.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cca_models.adaptation.adapter_packing import pack_adapter
from cca_models.adaptation.averaging_parts import Part, read_parts
from cca_models.adaptation.low_rank import at_rank
from cca_models.adaptation.model_card import CARD_FILE, model_card, sources_used
from cca_models.adapters.adapter_files import WEIGHTS_FILE
from cca_models.adapters.lora_config import CONFIG_FILE
from cca_models.adapters.peft_names import A, B, module_of
from cca_models.adapters.settings import SETTINGS_FILE
from cca_models.errors import AdapterError
from cca_models.fingerprints import file_sha256

# Thirds are written with a few digits.
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptEnergy:
    """Share of the averaged products' energy (squared Frobenius norm) that the rank keeps.

    Attributes:
        mean: Over the matrices.
        lowest: Of the matrix that loses most.
    """

    mean: float
    lowest: float


def average_adapters(
    parts: Sequence[tuple[Path, float]], target: Path, *, dtype: str = "fp32"
) -> KeptEnergy:
    """Write the weighted mean of adapters as an adapter of the first one's rank and scale.

    What locates passages, and the thresholds of "not found", are taken over from the first: they
    should be measured again.

    Args:
        parts: Folders of adapters and their shares, which sum to 1.
        target: Folder to write; made if need be.
        dtype: Of the weights' file, one of `DTYPES`: "fp32", "bf16" or "fp8".

    Returns:
        What the rank keeps, before the weights are rounded to `dtype`.

    Raises:
        ValueError: If a share is negative, or they do not sum to 1.
        KeyError: If `dtype` is none of them.
        AdapterError: If there are fewer than two adapters, one cannot be used, they do not belong
            together, or the target folder is not empty.
        OSError: If a file cannot be written.
    """
    check_shares([share for _, share in parts])
    if len(parts) < 2:
        raise AdapterError(
            "a mean needs two adapters or more", hint="cca models average ONE TWO --out DIR"
        )
    target = target.expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AdapterError(
            f"{target}: something is there, which is not overwritten", hint="name a new folder"
        )
    read = read_parts(parts)
    tensors, kept = _mean(read)
    target.mkdir(parents=True, exist_ok=True)
    # Where writing is broken off, nobody finds half an adapter.
    with TemporaryDirectory(dir=target, prefix=".draft-") as draft:
        whole, packed = Path(draft) / "whole", Path(draft) / "packed"
        _write(whole, read, tensors)
        pack_adapter(whole, packed, dtype=dtype)
        for file in packed.iterdir():
            file.replace(target / file.name)
    return kept


def check_shares(shares: Sequence[float]) -> None:
    """Check that shares make a mean.

    Raises:
        ValueError: If one is negative or no number, or they do not sum to 1.
    """
    for share in shares:
        # NaN is not above 0, either.
        if not share >= 0:
            raise ValueError(f"a share of {share:g} cannot be used")
    if not abs(math.fsum(shares) - 1) <= _TOLERANCE:
        raise ValueError(f"the shares sum to {math.fsum(shares):.7g}, not to 1")


def _mean(parts: Sequence[Part]) -> tuple[dict[str, Tensor], KeptEnergy]:
    """Average all tensors, in float32 under PEFT's names."""
    averaged: dict[str, Tensor] = {}
    kept = []
    for name, tensor in parts[0].tensors.items():
        if name.endswith(A):
            other = name.removesuffix(A) + B
            averaged[other], averaged[name], share = _mean_product(parts, name, other)
            kept.append(share)
        elif not name.endswith(B):
            mean = torch.zeros_like(tensor, dtype=torch.float64)
            for part in parts:
                mean += part.share * part.tensors[name].double()
            averaged[name] = mean.float()
    # Norms alone lose nothing.
    kept = kept or [1.0]
    return averaged, KeptEnergy(mean=statistics.fmean(kept), lowest=min(kept))


def _mean_product(parts: Sequence[Part], a: str, b: str) -> tuple[Tensor, Tensor, float]:
    """Average the products of a pair, named; gives B, A, and the share of energy they keep."""
    first, module = parts[0].adapter, module_of(a)
    scale = first.lora.scale_of(module)
    if scale == 0:
        raise AdapterError(
            f"adapter {parts[0].name} multiplies {module} with 0, and so would the mean",
            hint="name another adapter first",
        )
    factors = [part.share * part.adapter.lora.scale_of(module) / scale for part in parts]
    return at_rank(
        torch.cat([f * p.tensors[b].double() for f, p in zip(factors, parts, strict=True)], dim=1),
        torch.cat([part.tensors[a].double() for part in parts]),
        first.lora.rank_of(module),
    )


def _write(folder: Path, parts: Sequence[Part], tensors: dict[str, Tensor]) -> None:
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = parts[0].adapter.path / CONFIG_FILE
    (folder / CONFIG_FILE).write_bytes(config.read_bytes())
    about = _about(parts)
    (folder / SETTINGS_FILE).write_text(json.dumps(about, indent=1) + "\n")
    (folder / CARD_FILE).write_text(model_card(about))


def _about(parts: Sequence[Part]) -> dict[str, Any]:
    """Make the content of cca.json: the first one's, but for positions and training."""
    first = parts[0].adapter.path / SETTINGS_FILE
    about: dict[str, Any] = json.loads(first.read_text(encoding="utf-8"))
    ropes = [part.settings.rope for part in parts]
    training: dict[str, Any] = {
        "averaged": [
            {
                "name": part.name,
                "share": part.share,
                "weights_sha256": file_sha256(part.adapter.weights),
                "training": dict(part.settings.training),
            }
            for part in parts
        ]
    }
    return {
        **about,
        "attention": parts[0].settings.attention,
        "rope": {
            **about["rope"],
            "trained_tokens": max(rope.trained_tokens for rope in ropes),
            "max_tokens": min(rope.max_tokens for rope in ropes),
        },
        "training": {**training, "sources": sources_used(training)},
    }
