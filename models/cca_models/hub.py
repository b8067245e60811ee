"""Checkpoints from the Hugging Face hub."""

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cca_models.checkpoint_files import check_weights, read_config
from cca_models.errors import CheckpointError, DownloadError, ModelError
from cca_models.model_store import building, hub_directory, size_of
from cca_models.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

_PATTERNS = ["*.json", "*.safetensors", "*.jinja"]
_POLL_SECONDS = 0.5


def pull_from_hub(name: str, *, offline: bool, progress: Progress | None) -> Path:
    """Return the directory of the hub's checkpoint `name` ("owner/name"), downloaded once.

    A whole copy in Hugging Face's own cache is used as it is; else it is downloaded to our models.
    Stage of the progress: "download", in bytes.

    Raises:
        CheckpointError: If the hub has no such checkpoint, or it is private.
        UnsupportedModelError: If it is not a LLaMA.
        DownloadError: If there is no network, or `offline` is set.
        OSError: If the disk is full or not writable.
    """
    if shared := _in_shared_cache(name):
        return shared
    with building(hub_directory(name), progress, resumable=True) as (target, aside):
        if aside is None:
            return target
        if offline:
            raise DownloadError(
                f"{name} is not on this machine, and offline is set",
                hint=f"run cca models pull {name} once with a network",
            )
        _download(name, aside, progress)
        # The client's notes on what it has of each file.
        shutil.rmtree(aside / ".cache", ignore_errors=True)
    return target


def _in_shared_cache(name: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        found = Path(
            snapshot_download(
                name, allow_patterns=_PATTERNS, ignore_patterns=["*/*"], local_files_only=True
            )
        )
        read_config(found)
        check_weights(found)
    except (OSError, ValueError, ModelError):
        return None
    return found if (found / "tokenizer.json").is_file() else None


def _download(name: str, directory: Path, progress: Progress | None) -> None:
    from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    done = threading.Event()
    disable_progress_bars()
    try:
        info = HfApi().model_info(name, files_metadata=True)
        total = _wanted_bytes(name, info)
        hf_hub_download(name, "config.json", revision=info.sha, local_dir=directory)
        _check_config(name, directory)
        if progress:
            watch = threading.Thread(
                target=_watch, args=(directory, total, progress, done), daemon=True
            )
            watch.start()
        snapshot_download(
            name,
            revision=info.sha,
            local_dir=directory,
            allow_patterns=_PATTERNS,
            ignore_patterns=["*/*"],
        )
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name}: the hub gives this model only to those who accepted its terms",
            hint=f"accept them at https://huggingface.co/{name}, then run hf auth login",
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CheckpointError(
            f"{name}: neither a directory here nor a model on the hub",
            hint="cca models ls shows what is here",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _no_network(name, error) from error
    except OSError as error:
        # A full disk has a number, what goes wrong on the network has none.
        if error.errno is not None and error.filename is not None:
            raise
        raise _no_network(name, error) from error
    except Exception as error:
        # The hub's client lets its transport's own errors through, whichever library that is.
        if type(error).__module__.partition(".")[0] not in {"httpx", "httpx2", "httpcore"}:
            raise
        raise _no_network(name, error) from error
    finally:
        done.set()
        enable_progress_bars()


def _wanted_bytes(name: str, info: "ModelInfo") -> int:
    files = [file for file in info.siblings or () if "/" not in file.rfilename]
    if missing := {"config.json", "tokenizer.json"} - {file.rfilename for file in files}:
        raise CheckpointError(
            f"{name}: the model has no {min(missing)} on the hub",
            hint="choose another checkpoint, or give a GGUF file of it",
        )
    if not any(file.rfilename.endswith(".safetensors") for file in files):
        raise CheckpointError(
            f"{name}: the model has no safetensors weights on the hub",
            hint="choose a checkpoint in safetensors, or give a GGUF file of it",
        )
    endings = tuple(pattern[1:] for pattern in _PATTERNS)
    return sum(file.size or 0 for file in files if file.rfilename.endswith(endings))


def _check_config(name: str, directory: Path) -> None:
    """Refuse what cannot be used before its weights are downloaded."""
    try:
        read_config(directory)
    except CheckpointError as error:
        says = str(error).replace(str(directory), name)
        raise type(error)(says, hint=error.hint) from error


def _watch(directory: Path, total: int, progress: Progress, done: threading.Event) -> None:
    while not done.wait(_POLL_SECONDS):
        progress("download", min(size_of(directory), total), total)


def _no_network(name: str, error: Exception) -> DownloadError:
    lines = str(error).strip().splitlines()
    cause = lines[0] if lines else type(error).__name__
    return DownloadError(
        f"cannot download {name} from the hub: {cause}",
        hint=f"check the network, then run cca models pull {name}",
    )
