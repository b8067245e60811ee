"""Where models and other re-creatable things are kept on this machine."""

import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """Return the root of everything that could be made again, and make it if it is missing.

    `CCA_CACHE_DIR` names it; else it is `cache` under `CCA_HOME`; else the user's cache directory
    of the operating system. An empty variable counts as unset.

    Raises:
        OSError: If the directory cannot be made.
    """
    if own := os.environ.get("CCA_CACHE_DIR"):
        return private_dir(Path(own).expanduser().absolute())
    if home := os.environ.get("CCA_HOME"):
        return private_dir(Path(home).expanduser().absolute() / "cache")
    # Takes longer to import than everything else here and is seldom needed with CCA_HOME set.
    from platformdirs import user_cache_path

    return private_dir(user_cache_path("cca", appauthor=False))


def models_dir() -> Path:
    """Return the directory of downloaded and converted checkpoints, made if it is missing."""
    return private_dir(cache_dir() / "models")


def private_dir(path: Path) -> Path:
    """Make `path` and its missing parents, readable by their owner alone, and return it."""
    missing = []
    parent = path
    while not parent.is_dir() and parent != parent.parent:
        missing.append(parent)
        parent = parent.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)
    return path


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file aside and rename it, so that a reader sees the old one or the new one.

    Raises:
        OSError: If the disk is full or not writable; `path` is then as it was.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(content)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
