"""Packages that only some commands need, and that are installed on request."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from cca_cli.errors import ResourceError

__all__ = ["expect_packages"]


def expect_packages(doing: str, names: Sequence[str], *, extra: str) -> None:
    """Check that packages are there before work begins that would end without them.

    Args:
        doing: What needs them, to begin the sentence with.
        names: Their import names.
        extra: The extra of this project that brings them.

    Raises:
        ResourceError: If one is missing.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ResourceError(
            f"{doing} needs {' and '.join(missing)}", hint=f"pip install 'cca[{extra}]'"
        )
