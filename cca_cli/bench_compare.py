"""``cca bench --compare``: figures beside those of an earlier run, for people and for CI."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.bench_output import markdown_table
from cca_cli.errors import PartialFailureError, UsageError

if TYPE_CHECKING:
    from cca_models.benchmarks_results import Row

__all__ = [
    "Earlier",
    "changes_of",
    "comparison_table",
    "fail_if_worse",
    "load_earlier",
    "parse_limit",
]

# What is compared; more is worse in all of them.
_FIGURES = {
    "prefill_s": "prefill", "decode_ms": "decode", "kv_bytes": "KV", "peak_bytes": "peak",
}  # fmt: skip
# Runs that differ in one of these cannot be told apart from a change of the program.
_SAME = ("device_name", "dtype", "model", "group_size", "window", "threads", "torch", "batch")
# What releases that did not note it down had.
_BEFORE = {"batch": 1}


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier run.

    Attributes:
        name: Of the file.
        provenance: As it was printed.
        rows: By method and length.
    """

    name: str
    provenance: Mapping[str, Any]
    rows: Mapping[tuple[str, int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one cell, then and now; `share` is what it grew by (0.05: 5 % worse)."""

    method: str
    length: int
    figure: str
    before: float
    now: float

    @property
    def share(self) -> float:
        return self.now / self.before - 1


def parse_limit(text: str) -> float:
    """Read "5%" or "5" as 0.05.

    Raises:
        UsageError: If it is no number, or below zero.
    """
    try:
        limit = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise UsageError(f"--max-regress {text}: is not a percentage", hint="--max-regress 5%")
    return limit


def load_earlier(path: Path) -> Earlier:
    """Load what `cca bench --json` wrote.

    Raises:
        UsageError: If the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        rows = {(str(row["method"]), int(row["length"])): row for row in value["rows"]}
        return Earlier(path.name, dict(value["provenance"]), rows)
    except OSError as error:
        raise UsageError(
            f"--compare {path}: {(error.strerror or 'cannot be read').lower()}",
            hint="cca bench --json > bench.json makes one",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--compare {path}: is not what cca bench --json writes",
            hint="cca bench --json > bench.json makes one",
        ) from error


def changes_of(rows: Sequence[Row], earlier: Earlier) -> list[Change]:
    """Set the figures of cells that both runs have beside each other."""
    found = []
    for row in rows:
        before = earlier.rows.get((row.method, row.length), {})
        for figure in _FIGURES:
            then, now = before.get(figure), getattr(row, figure)
            if then and now is not None:
                found.append(Change(row.method, row.length, figure, float(then), float(now)))
    return found


def comparison_table(
    changes: Sequence[Change], earlier: Earlier, provenance: Mapping[str, Any]
) -> str:
    """Write how much each figure changed, and what else differs between the runs."""
    cells = dict.fromkeys((c.method, c.length) for c in changes)
    by_cell = {(c.method, c.length, c.figure): c for c in changes}
    lines = [
        (
            method,
            f"{length:,}",
            *(
                f"{by_cell[method, length, f].share:+.1%}" if (method, length, f) in by_cell else ""
                for f in _FIGURES
            ),
        )
        for method, length in cells
    ]
    header = ("method", "length", *_FIGURES.values())
    text = f"change since {earlier.name} ({earlier.provenance.get('time', 'at an unknown time')})"
    if not lines:
        return f"{text}: no cell in common"
    text += ":\n\n" + markdown_table(header, lines, text={"method"})
    for name in _SAME:
        then, now = (
            facts.get(name, _BEFORE.get(name)) for facts in (earlier.provenance, provenance)
        )
        if then != now:
            text += f"\n{name.replace('_', ' ')} was {then}, is {now}: not comparable"
    return text


def fail_if_worse(changes: Sequence[Change], earlier: Earlier, *, limit: float) -> None:
    """Let the exit code say that a figure has become worse than allowed.

    Raises:
        PartialFailureError: If one has, or if there is nothing to compare.
    """
    if not changes:
        raise PartialFailureError(
            f"no cell of {earlier.name} was measured again",
            hint="the same --len and --attn as then",
        )
    worse = sorted((c for c in changes if c.share > limit), key=lambda c: -c.share)
    if worse:
        worst = worse[0]
        raise PartialFailureError(
            f"{len(worse)} of {len(changes)} figures are more than {limit:.0%} worse than in "
            f"{earlier.name}, most {_FIGURES[worst.figure]} of {worst.method} at "
            f"{worst.length:,}: {worst.share:+.1%}",
            hint="--repeat 5 tells a change from noise",
        )
