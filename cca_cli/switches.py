"""Variables that switch something off: read by the light side of a warm command, too."""

from __future__ import annotations

__all__ = ["means_off"]

_OFF = frozenset({"off", "0", "no", "false"})


def means_off(value: str) -> bool:
    """Say whether a variable's value switches off what the variable is about."""
    return value.lower() in _OFF
