"""What `cca bench` is given, checked before anything is measured."""

from __future__ import annotations

import re
from pathlib import Path

from cca_cli.errors import UsageError

__all__ = ["check_output", "parse_lengths", "parse_methods"]

_LENGTH = re.compile(r"(\d+)([km]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def parse_lengths(text: str) -> tuple[int, ...]:
    """Read a list like ``4k,32k,128k``: ascending, each once, k = 1,024 and m = 1,048,576.

    Raises:
        UsageError: If one is no number above zero.
    """
    lengths = set()
    for part in text.split(","):
        match = _LENGTH.fullmatch(part.strip())
        tokens = int(match[1]) * _UNITS[match[2].lower()] if match else 0
        if tokens < 1:
            raise UsageError(
                f"--len {text}: {part.strip()!r} is not a number of tokens",
                hint="--len 4k,32k,128k, where k is 1,024",
            )
        lengths.add(tokens)
    return tuple(sorted(lengths))


def parse_methods(text: str) -> tuple[str, ...]:
    """Read a list like ``full,cca``, in its order, each once.

    Raises:
        UsageError: If one is unknown.
    """
    from cca_models.benchmarks import METHODS

    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if "all" in chosen:
        return METHODS
    for method in chosen:
        if method not in METHODS:
            raise UsageError(
                f"--attn {text}: {method!r} is unknown",
                hint=f"--attn all, or some of {','.join(METHODS)}",
            )
    return chosen


def check_output(path: Path, option: str) -> None:
    """Check that a file can be written, by opening it; what is in it stays for now.

    Raises:
        UsageError: If it cannot.
    """
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"{option} {path}: {reason}", hint=f"{option} FILE in a directory that you may write"
        ) from error
    if not existed:
        path.unlink()
