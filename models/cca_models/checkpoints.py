"""Checkpoints by name: what `--model` may be, and the checks before one is loaded."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cca_models.adapters import Adapter, read_adapter, shipped_adapter, trained_settings
from cca_models.checkpoint_files import check_weights, read_config
from cca_models.config import CCAConfig
from cca_models.default_model import DEFAULT_MODEL, pull_default_model
from cca_models.errors import CheckpointError, ModelError
from cca_models.fingerprints import file_sha256
from cca_models.model_store import building, size_of, stored
from cca_models.paths import models_dir
from cca_models.progress import Progress

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_LS = "cca models ls shows what is here; a hub id is written owner/name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A LLaMA checkpoint on this machine, whole as far as can be told without loading it.

    Attributes:
        name: What the user calls it.
        path: Directory with config.json, the weights in safetensors and the tokenizer's files.
        config: Content of config.json.
        adapter: What teaches it to read through core tokens, merged when it is loaded; None to
            take the weights as they are.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    adapter: Adapter | None = None

    @property
    def adapted(self) -> bool:
        """Whether an adapter is applied."""
        return self.adapter is not None

    @property
    def trained_tokens(self) -> int:
        """The longest text the checkpoint itself was trained on, in tokens."""
        return int(self.config["max_position_embeddings"])

    @property
    def cca(self) -> CCAConfig:
        """The group size and window that its adapter was trained with; else the defaults."""
        settings = trained_settings(self.adapter)
        return settings.cca if settings else CCAConfig()

    @property
    def fingerprint(self) -> str:
        """SHA-256, hex, over configuration, tokenizer, weights and adapter.

        The digests of the files are remembered, so only the first call reads the weights.
        """
        names = ["config.json", *_TOKENIZER_FILES, *check_weights(self.path)]
        files = [self.path / name for name in names]
        parts = [
            [file.name, file.stat().st_size, file_sha256(file)] for file in files if file.is_file()
        ]
        says = json.dumps([parts, self.adapter.digest if self.adapter else False])
        return hashlib.sha256(says.encode()).hexdigest()


def resolve_checkpoint(
    name: str,
    *,
    adapter: str = "default",
    offline: bool = False,
    progress: Progress | None = None,
) -> Checkpoint:
    """Return the checkpoint that `name` means, obtained first if need be.

    Args:
        name: The default model's name; or a directory; or a GGUF file, which is converted once;
            or the name of a checkpoint that `list_checkpoints` shows; or owner/name on the hub.
        adapter: "default" for the one that ships with cca for the default model, and none for
            other checkpoints; "none"; or the folder of a PEFT LoRA adapter.
        offline: Use no network. The environment variables CCA_OFFLINE and HF_HUB_OFFLINE set to
            1 mean the same.
        progress: Told about downloads and conversions.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged.
        UnsupportedModelError: If it is not a LLaMA.
        AdapterError: If there is no such adapter, or it cannot be used.
        DownloadError: If it would have to be downloaded and cannot be.
        OSError: If a file cannot be read, or the disk is full.
    """
    offline = offline or _is_set("CCA_OFFLINE") or _is_set("HF_HUB_OFFLINE")
    # A wrong folder is told before anything is downloaded.
    chosen = read_adapter(Path(adapter)) if adapter not in ("default", "none") else None
    checkpoint = _find(name, offline=offline, progress=progress)
    return (
        _with_shipped(checkpoint) if adapter == "default" else replace(checkpoint, adapter=chosen)
    )


def _find(name: str, *, offline: bool, progress: Progress | None) -> Checkpoint:
    if name == DEFAULT_MODEL:
        return _open_stored(pull_default_model(progress=progress, offline=offline), name)
    path = Path(name).expanduser()
    if path.is_dir():
        path = path.resolve()
        return _open(path, path.name)
    if path.is_file():
        return _from_file(path, progress)
    for here in stored():
        if name in (here.name, _shown_name(here)):
            return _open_stored(here, name)
    if _HUB_ID.fullmatch(name) and path.suffix.lower() != ".gguf":
        # Brings a hundred modules, for checkpoints from the hub alone.
        from cca_models.hub import pull_from_hub

        return _open(pull_from_hub(name, offline=offline, progress=progress), name)
    kind = "file or directory" if len(path.parts) > 1 or path.suffix else "model"
    raise CheckpointError(f"{name}: there is no such {kind}", hint=_LS)


def list_checkpoints() -> list[Checkpoint]:
    """Return the checkpoints that were downloaded or converted here; damaged ones are left out.

    Raises:
        AdapterError: If the adapter that ships with cca is damaged.
    """
    found = []
    for path in stored():
        try:
            checkpoint = _open(path, _shown_name(path))
        except ModelError:
            continue
        found.append(_with_shipped(checkpoint))
    return found


def remove_checkpoint(name: str) -> int:
    """Remove a downloaded or converted checkpoint, damaged or not, and return the bytes freed.

    Raises:
        CheckpointError: If there is none of that name; other directories are never touched.
        OSError: If it cannot be removed.
    """
    for path in stored():
        if name in (path.name, _shown_name(path)):
            freed = size_of(path)
            # Out of sight at once, so that an interrupt leaves no half checkpoint behind.
            aside = path.with_name(f".removed-{os.getpid()}-{path.name}")
            os.replace(path, aside)
            shutil.rmtree(aside)
            return freed
    raise CheckpointError(
        f"{name}: no such model was downloaded or converted here", hint="cca models ls"
    )


def _open(path: Path, name: str) -> Checkpoint:
    config = read_config(path)
    check_weights(path)
    if not (path / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{path}: tokenizer.json is missing",
            hint="save it there with transformers: AutoTokenizer.from_pretrained(...)"
            ".save_pretrained(...)",
        )
    return Checkpoint(name=name, path=path, config=config)


def _with_shipped(checkpoint: Checkpoint) -> Checkpoint:
    """Apply the adapter that ships with cca to the checkpoint that it was made for."""
    # The name alone may be anybody's; asking for models_dir makes it.
    if checkpoint.path.name != DEFAULT_MODEL:
        return checkpoint
    if checkpoint.path.resolve() != (models_dir() / DEFAULT_MODEL).resolve():
        return checkpoint
    return replace(checkpoint, adapter=shipped_adapter(DEFAULT_MODEL))


def _open_stored(path: Path, name: str) -> Checkpoint:
    try:
        return _open(path, name)
    except CheckpointError as error:
        error.hint = f"cca models rm {name}, then run the command again"
        raise


def _from_file(path: Path, progress: Progress | None) -> Checkpoint:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise CheckpointError(
            f"{path}: neither a checkpoint directory nor a GGUF file",
            hint="name the directory that holds config.json and the weights",
        )
    # Brings numpy and gguf.
    from cca_models.gguf_conversion import convert_gguf

    stem = re.sub(r"[^\w.-]", "-", path.stem).lstrip(".-_")
    name = f"{stem}-{file_sha256(path)[:12]}".lower()
    with building(name, progress) as (target, aside):
        if aside is not None:
            convert_gguf(path, aside, progress=progress)
    return _open_stored(target, name)


def _shown_name(path: Path) -> str:
    """Return owner/name for a directory that came from the hub, else the directory's name."""
    return path.name.replace("--", "/", 1)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "yes", "on"}
