"""Numbers and ranges in words, and text made safe for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

__all__ = [
    "format_bytes",
    "format_count",
    "format_duration",
    "format_moment",
    "format_ranges",
    "strip_control",
]

_ESCAPES = re.compile(
    r"""
    \x1b\[ [0-?]* [ -/]* [@-~]?              # CSI: colours, cursor
  | \x9b [0-?]* [ -/]* [@-~]?                # the same, eight-bit
  | \x1b [\]PX^_] .*? (?: \x07 | \x1b\\ | \x9c | \Z)   # OSC, DCS, SOS, PM, APC up to its end
  | [\x9d\x90\x98\x9e\x9f] .*? (?: \x07 | \x1b\\ | \x9c | \Z)
  | \x1b [ -/]* [0-~]?                       # any other escape
  | [\x00-\x08\x0b-\x1f\x7f-\x9f]            # C0 but tab and newline, DEL, C1
  | [\u202a-\u202e\u2066-\u2069]              # marks that show text in another order than it has
    """,
    re.VERBOSE | re.DOTALL,
)


def strip_control(text: str) -> str:
    """Remove whatever could steer a terminal; tabs and newlines stay."""
    return _ESCAPES.sub("", text)


def format_bytes(count: int) -> str:
    """Write a size with a binary unit: ``412 MiB``."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_count(count: int) -> str:
    """Write a large number short: ``131k``."""
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1000:,.0f}k"


def format_duration(seconds: float) -> str:
    """Write a duration as people say it: ``8 s``, ``2 min 10 s``, ``1 h 05 min``."""
    if seconds < 1:
        return "1 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_moment(moment: str) -> str:
    """Write a moment in ISO 8601 as the clock on the wall shows it: ``2026-11-22 20:41``."""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}"


def format_ranges(numbers: Sequence[int], *, limit: int = 8) -> str:
    """Write ascending numbers as ranges: ``5, 210-211``.

    Args:
        numbers: Ascending, without repeats.
        limit: Ranges to write before the rest are only counted; 0 for all.
    """
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    parts = [f"{a}" if a == b else f"{a}-{b}" for a, b in ranges]
    if limit and len(parts) > limit:
        left = len(parts) - limit
        return ", ".join(parts[:limit]) + f" and {left} more range{'s' if left > 1 else ''}"
    return ", ".join(parts)
