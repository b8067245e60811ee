"""The digest of a checkpoint's weights by which an adapter knows its base."""

import hashlib
from pathlib import Path

from cca_models.adapters.adapter_files import Adapter
from cca_models.checkpoint_files import weight_files
from cca_models.errors import AdapterError
from cca_models.fingerprints import tensors_sha256


def weights_sha256(path: Path) -> str:
    """Return the SHA-256, hex, of a checkpoint directory's tensors.

    It goes by names, dtypes, shapes and values: a file that was written by another release of
    safetensors is the same. The digest of each file is remembered.

    Raises:
        CheckpointError: If a file is missing or damaged.
        OSError: If one cannot be read.
    """
    names, _ = weight_files(path)
    digests = [tensors_sha256(path / name) for name in names]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def check_base(adapter: Adapter, path: Path) -> None:
    """Check that an adapter was trained on the weights of a checkpoint directory.

    Raises:
        AdapterError: If it was trained on others; one that does not say is let pass.
        CheckpointError: If a file of the checkpoint is missing or damaged.
    """
    settings = adapter.settings
    if settings is None or weights_sha256(path) == settings.base_sha256:
        return
    raise AdapterError(
        f"adapter {adapter.name} was trained on other weights of {settings.base_name} "
        f"than those in {path}",
        hint=f"--model {settings.base_name} if it came from there; --adapter none reads without it",
    )
