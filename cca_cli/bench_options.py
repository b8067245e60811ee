"""What `cca bench` is given, checked before anything is measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cca_cli.errors import UsageError

Form = Literal["md", "csv", "json", "jsonl"]

if TYPE_CHECKING:
    from cca_cli.console import Console

__all__ = ["check_output", "choose_format", "parse_lengths", "parse_methods"]

_LENGTH = re.compile(r"(\d+)([km]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def parse_lengths(text: str) -> tuple[int, ...]:
    """Read a list like ``4k,32k,128k``: ascending, each once, k = 1,024 and m = 1,048,576.

    A part like ``4k..128k`` doubles from the first to the last, which is among them in any case.

    Raises:
        UsageError: If one is no number above zero, or a range ends before it begins.
    """
    lengths: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        begin = _tokens(first, text)
        if not dots:
            lengths.add(begin)
            continue
        end = _tokens(last, text)
        if end < begin:
            raise UsageError(
                f"--len {text}: {part.strip()} ends before it begins",
                hint=f"--len {last.strip()}..{first.strip()}",
            )
        while begin < end:
            lengths.add(begin)
            begin *= 2
        lengths.add(end)
    return tuple(sorted(lengths))


def _tokens(part: str, text: str) -> int:
    match = _LENGTH.fullmatch(part.strip())
    tokens = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if tokens < 1:
        raise UsageError(
            f"--len {text}: {part.strip()!r} is not a number of tokens",
            hint="--len 4k,32k,128k or 4k..128k, where k is 1,024",
        )
    return tokens


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


def choose_format(console: Console, form: Form | None, *, json: bool, operations: bool) -> Form:
    """Settle the form of the results on stdout, and tell the console: md, csv, json or jsonl.

    Raises:
        UsageError: If --format and --json say different things, or the operations lack the form.
    """
    if json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other", hint="leave one out")
    chosen: Form = form or ("json" if json else "md")
    if operations and chosen not in ("md", "json"):
        raise UsageError(
            f"--ops and --tune have no --format {chosen}", hint="--format json, or --csv FILE"
        )
    match chosen:
        case "json" | "jsonl":
            console.mode = chosen
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
