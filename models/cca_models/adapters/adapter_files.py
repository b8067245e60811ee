"""An adapter's folder, read and checked without loading a tensor."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cca_models.adapters.lora_config import CONFIG_FILE, LoraSettings, read_lora_config
from cca_models.adapters.settings import SETTINGS_FILE, AdapterSettings, read_settings
from cca_models.errors import AdapterError
from cca_models.fingerprints import file_sha256

WEIGHTS_FILE = "adapter_model.safetensors"
# Where the adapters that ship with cca lie.
_SHIPPED = Path(__file__).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A LoRA adapter on this machine.

    Attributes:
        name: Name of its folder.
        path: The folder.
        lora: What the weights are multiplied with.
        settings: What it was trained for; None for a plain PEFT adapter, which does not say.
    """

    name: str
    path: Path
    lora: LoraSettings
    settings: AdapterSettings | None

    @property
    def weights(self) -> Path:
        """The file of its tensors."""
        return self.path / WEIGHTS_FILE

    @property
    def digest(self) -> str:
        """SHA-256, hex, over all that changes the checkpoint's weights."""
        says = f"{file_sha256(self.weights)} {self.lora.to_json()}"
        return hashlib.sha256(says.encode()).hexdigest()

    @property
    def warning(self) -> str | None:
        """What a user should know about it; None if it is made for cca."""
        if self.settings is not None:
            return None
        return (
            f"adapter {self.name} has no {SETTINGS_FILE}: it does not say which group size, "
            "window and rotary positions it was trained with, so the checkpoint's own are used"
        )


def trained_settings(adapter: Adapter | None) -> AdapterSettings | None:
    """Give what an adapter was trained for; None without one, or where it does not say."""
    return adapter.settings if adapter else None


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's folder; the tensors are left for cca_models.adapters.merging.

    Raises:
        AdapterError: If there is no such folder, or it holds no adapter that can be used.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise AdapterError(
            f"{folder}: there is no such adapter folder",
            hint="--adapter takes default, none or a folder in PEFT's layout",
        )
    folder = folder.resolve()
    lora = read_lora_config(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        others = sorted(file.name for file in folder.glob("adapter_model.*"))
        what = f"only there as {others[0]}, which may run code when loaded" if others else "missing"
        raise AdapterError(
            f"{folder}: {WEIGHTS_FILE} is {what}",
            hint="save the adapter with PEFT: save_pretrained(..., safe_serialization=True)",
        )
    return Adapter(name=folder.name, path=folder, lora=lora, settings=read_settings(folder))


def shipped_adapter(name: str) -> Adapter | None:
    """Give the adapter that ships with cca for a checkpoint of its own; None if there is none.

    Raises:
        AdapterError: If it is damaged.
    """
    folder = _SHIPPED / name
    if not (folder / CONFIG_FILE).is_file():
        return None
    try:
        return read_adapter(folder)
    except AdapterError as error:
        error.hint = "install cca again; --adapter none reads without the adapter"
        raise
