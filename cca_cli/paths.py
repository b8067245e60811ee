"""Where the command line keeps things: the library, beside the models, in the user's cache.

The root is decided in one place, `cca_models.paths`: CCA_HOME, then CCA_CACHE_DIR, then the
platform's own cache directory.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["cache_dir", "data_dir", "library_dir", "models_dir"]


def cache_dir() -> Path:
    """Return the root of everything that can be made again."""
    # It may import platformdirs, whose time `cca --help` must not pay.
    from cca_models.paths import cache_dir as root

    return root()


def data_dir() -> Path:
    """Return the directory of what cannot be made again: CCA_HOME's, else the platform's own."""
    import os

    from cca_models.paths import private_dir

    if home := os.environ.get("CCA_HOME"):
        return private_dir(Path(home).expanduser().absolute() / "data")
    from platformdirs import user_data_path

    return private_dir(user_data_path("cca", appauthor=False))


def library_dir() -> Path:
    """Return the directory of the library; it need not exist yet."""
    return cache_dir() / "library"


def models_dir() -> Path:
    """Return the directory of the checkpoints."""
    from cca_models.paths import models_dir as directory

    return directory()
