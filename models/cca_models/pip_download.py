"""One wheel by pip's own download, so that the user's index, mirror and proxy settings hold."""

import errno
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from cca_models.errors import DownloadError
from cca_models.model_store import size_of
from cca_models.progress import Progress

_POLL_SECONDS = 0.2
_CAUSES = (
    (r"name resolution|NameResolutionError|getaddrinfo|nodename nor servname", "no network or DNS"),
    (r"ProxyError|Cannot connect to proxy", "the proxy cannot be reached"),
    (r"SSLError|CERTIFICATE_VERIFY_FAILED", "the package index's certificate is not trusted"),
    (r"timed out|TimeoutError", "the package index does not answer"),
    (r"NewConnectionError|ConnectionError|Connection refused|unreachable", "no connection"),
    (r"not a trusted or secure host", "the package index is ignored, it is not https"),
    (r"No matching distribution|Could not find a version", "the package index does not have it"),
)


def download_wheel(
    requirement: str, directory: Path, *, size: int, progress: Progress | None = None
) -> Path:
    """Download the wheel of `requirement`, without its dependencies, into `directory`.

    Progress is read off the growing files, so pip's scratch space is put there too.

    Args:
        requirement: Name and exact version, "name==1.0".
        directory: Existing directory; what is in it after an error is for the caller to remove.
        size: Bytes of the wheel, for the progress.

    Raises:
        DownloadError: If there is no pip, or it fails.
        OSError: If the disk is full.
    """
    scratch = directory / "scratch"
    scratch.mkdir()
    command = [
        *_pip(),
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        # Five by default, with growing pauses: half a minute before "no network" is said.
        "--retries=2",
        "--dest",
        str(directory),
        requirement,
    ]
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    errors = directory / "errors.txt"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=os.environ | places,
        )
        try:
            while process.poll() is None:
                if progress:
                    progress("download", min(size_of(directory), size), size)
                try:
                    process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            _stop(process)
    wheels = list(directory.glob("*.whl"))
    if process.returncode or not wheels:
        _fail(requirement, errors.read_text(encoding="utf-8", errors="replace"), directory)
    if progress:
        progress("download", size, size)
    return wheels[0]


def _pip() -> list[str]:
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    # Environments made by uv hold no pip.
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    for name in ("pip", "pip3"):
        if found := shutil.which(name):
            return [found]
    raise DownloadError("there is neither pip nor uv to download the default model with")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _fail(requirement: str, said: str, directory: Path) -> None:
    if "[Errno 28]" in said or "No space left" in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory.parent))
    cause = next((cause for words, cause in _CAUSES if re.search(words, said, re.IGNORECASE)), "")
    if not cause:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        cause = errors[-1].removeprefix("ERROR: ") if errors else "pip failed without a word"
    raise DownloadError(f"cannot download {requirement} with pip: {cause}")
