"""adapter_config.json: the part of PEFT's LoraConfig that decides what is merged.

PEFT has many variants of LoRA, and new releases bring more. A setting that is not known here and
not switched off is refused: merged as plain LoRA, such an adapter would be wrong in silence.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cca_models.errors import AdapterError

CONFIG_FILE = "adapter_config.json"

# They have no say in what plain LoRA computes, or it shows in the tensors' names.
_NEUTRAL = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules",
        "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
        "lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version",
        "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
    }
)  # fmt: skip
_USED = frozenset({"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias"})
# These leave the checkpoint's own weights as they were; others start from changed ones.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_PLAIN = "adapters must be plain LoRA: merge this one with PEFT, or train it without that setting"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """How large the factors are and what their product counts.

    Attributes:
        rank: Rank r, where no pattern says otherwise.
        alpha: lora_alpha, likewise.
        rank_stabilised: Whether the product is scaled by alpha / sqrt(r) instead of alpha / r.
        rank_pattern: Ranks of modules by the ends of their names, regular expressions.
        alpha_pattern: Likewise for alpha.
        tied: Whether embeddings that were trained as a whole are those of the output, too.
    """

    rank: int
    alpha: float
    rank_stabilised: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    tied: bool

    def rank_of(self, module: str) -> int:
        """Give the rank of a module, such as model.layers.0.self_attn.q_proj."""
        return int(_matching(self.rank_pattern, module, self.rank))

    def scale_of(self, module: str) -> float:
        """Give the factor on the product of a module's two matrices."""
        rank, alpha = self.rank_of(module), _matching(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank

    def to_json(self) -> str:
        """Write it down canonically, for digests."""
        return json.dumps(asdict(self), sort_keys=True)


def read_lora_config(folder: Path) -> LoraSettings:
    """Read adapter_config.json of an adapter's folder.

    Raises:
        AdapterError: If it is missing, damaged, or not plain LoRA.
    """
    file = folder / CONFIG_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(
            f"{folder}: not a PEFT adapter, {CONFIG_FILE} is missing",
            hint=f"name the folder that holds {CONFIG_FILE}, or --adapter none",
        ) from None
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"{file}: the file is damaged ({error})", hint="copy the adapter again"
        ) from error
    kind = content.get("peft_type") if isinstance(content, dict) else None
    if kind != "LORA":
        raise AdapterError(f"{file}: the adapter is of type {kind!r}, not 'LORA'", hint=_PLAIN)
    for name, value in content.items():
        if name not in _NEUTRAL | _USED and value:
            raise AdapterError(f"{file}: {name} is not supported", hint=_PLAIN)
    if content.get("bias", "none") != "none":
        raise AdapterError(f"{file}: bias {content['bias']!r} is not supported", hint=_PLAIN)
    start = content.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise AdapterError(f"{file}: init_lora_weights {start!r} is not supported", hint=_PLAIN)
    try:
        return _settings(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AdapterError(
            f"{file}: r, lora_alpha or a pattern of them cannot be used ({error})",
            hint="copy the adapter again",
        ) from error


def _settings(content: Mapping[str, Any]) -> LoraSettings:
    ranks = dict(content.get("rank_pattern") or {})
    alphas = dict(content.get("alpha_pattern") or {})
    settings = LoraSettings(
        rank=int(content["r"]),
        alpha=float(content["lora_alpha"]),
        rank_stabilised=bool(content.get("use_rslora")),
        rank_pattern={str(name): int(rank) for name, rank in ranks.items()},
        alpha_pattern={str(name): float(alpha) for name, alpha in alphas.items()},
        tied=bool(content.get("ensure_weight_tying")),
    )
    if min([settings.rank, *settings.rank_pattern.values()]) < 1:
        raise ValueError("a rank is below 1")
    try:
        for pattern in (*ranks, *alphas):
            re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r}: {error}") from error
    return settings


def _matching(pattern: Mapping[str, float], module: str, otherwise: float) -> float:
    """Look a module up as PEFT does: the first pattern that its name, or the end of it, fits."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise
