"""Adapters: LoRA weights, in PEFT's layout, that teach a checkpoint to read through core tokens.

<folder>/adapter_config.json        PEFT's LoraConfig
<folder>/adapter_model.safetensors  the weights under PEFT's names
<folder>/cca.json                   what they were trained for: base weights, group size, window,
                                    rotary rule, heads that locate

Adapters that ship with cca lie in folders here that bear the name of their checkpoint. Reading one
imports no torch; cca_models.adapters.merging does.
"""

from cca_models.adapters.adapter_files import (
    Adapter,
    read_adapter,
    shipped_adapter,
    trained_settings,
)
from cca_models.adapters.base_weights import weights_sha256
from cca_models.adapters.settings import AdapterSettings, LocateSettings, RopeSettings

__all__ = [
    "Adapter",
    "AdapterSettings",
    "LocateSettings",
    "RopeSettings",
    "read_adapter",
    "shipped_adapter",
    "trained_settings",
    "weights_sha256",
]
