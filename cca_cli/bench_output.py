"""The results of ``cca bench`` as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cca_cli.formatting import format_bytes

if TYPE_CHECKING:
    from cca_models.benchmarks import Case, LogitCheck
    from cca_models.benchmarks_results import Measurement, Row

__all__ = [
    "Provenance",
    "attention_table",
    "check_line",
    "csv_text",
    "finished_line",
    "json_value",
    "mark_text",
    "markdown_table",
    "plan_line",
    "significant",
    "table",
]

_HEADER = (
    "method", "length", "prefill s", "tok/s", "decode ms (p50 / p95)", "KV", "peak",
    "× prefill", "× decode", "× KV", "n", "mark",
)  # fmt: skip
_TEXT_COLUMNS = {"method", "mark"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Without which a figure is not worth quoting; JSON prints it as it is."""

    version: str
    torch: str
    transformers: str
    python: str
    device: str
    device_name: str
    dtype: str
    threads: int
    model: str
    weights: str
    group_size: int
    window: int
    new_tokens: int
    repeat: int
    budget_s: float
    seed: int
    lengths: tuple[int, ...]
    methods: tuple[str, ...]
    time: str
    command: str

    def line(self) -> str:
        """Sum it up in one line."""
        place = f"{self.device_name} ({self.device}"
        place += f", {self.threads} threads)" if self.device == "cpu" else ")"
        return " · ".join(
            (
                f"cca {self.version}",
                f"torch {self.torch}",
                f"transformers {self.transformers}",
                place,
                self.dtype,
                f"{self.model} ({self.weights})",
                f"G {self.group_size} W {self.window:,}",
                f"{self.new_tokens} new tokens",
                f"repeat {self.repeat}",
                f"budget {self.budget_s:g} s",
                f"seed {self.seed}",
                self.time,
                self.command,
            )
        )


def plan_line(case: Case) -> str:
    """Say before a case runs what it needs and whether it will be tried."""
    needs = case.needs
    verdict = "runs" if case.fits else "does not fit: oom"
    return (
        f"{case.method} {case.length:,}: needs {format_bytes(needs.total)} "
        f"({format_bytes(needs.kv)} KV, {format_bytes(needs.weights)} weights), "
        f"{format_bytes(case.free_bytes)} free: {verdict}"
    )


def finished_line(method: str, length: int, measurement: Measurement) -> str:
    """Say what one run gave."""
    label = f"{method} {length:,}: "
    if not measurement.has_figures:
        return label + measurement.mark
    seconds = sorted(measurement.prefill_s)[len(measurement.prefill_s) // 2]
    step = sorted(measurement.decode_s)[len(measurement.decode_s) // 2]
    how = f"{measurement.mark} {measurement.sampled}".strip()
    return (
        f"{label}{how} ({measurement.plan}): prefill {significant(seconds)} s, "
        f"decode {significant(1000 * step)} ms a token, KV {_size(measurement.kv_bytes)}, "
        f"peak {_size(measurement.peak_bytes)}"
    )


def check_line(check: LogitCheck, dtype: str) -> str:
    """Write the line on correctness."""
    if check.max_difference is None:
        return f"logits of cca against full: not checked, {check.reason}"
    return (
        f"logits of cca against full, same weights, {check.tokens:,} tokens (within the window), "
        f"{dtype}: max |difference| {check.max_difference:.1e} "
        f"(max |logit| {check.max_logit or 0:.3g}), same next token at "
        f"{check.same_top:,} of {check.tokens:,}"
    )


def table(rows: Sequence[Row]) -> str:
    """Write the rows as a Markdown table, aligned; it ends without a newline."""
    return markdown_table(_HEADER, [_cells(row) for row in rows], text=_TEXT_COLUMNS)


_ATTENTION_HEADER = (
    "attention", "training", "prefill", "decode", "KV kept", "reaches all", "full below", "source",
)  # fmt: skip


def attention_table(attentions: Sequence[Mapping[str, Any]]) -> str:
    """Write what the attentions are, as a Markdown table, and below it what of them is ours."""
    lines = [
        (
            one["name"],
            "needed" if one["needs_tuning"] else "none",
            one["prefill"],
            one["decode"],
            one["kv_kept"],
            "yes" if one["reaches_all"] else "no",
            "always" if one["exact"] else f"{one['shortest']:,}" if one["shortest"] else "never",
            one["paper"],
        )
        for one in attentions
    ]
    text = markdown_table(_ATTENTION_HEADER, lines, text=set(_ATTENTION_HEADER) - {"full below"})
    for one in attentions:
        settings = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in one["settings"].items())
        said = "; ".join(part for part in (settings, one["adapted"], one["note"]) if part)
        if said:
            text += f"\n{one['name']}: {said}"
    return text


def markdown_table(
    header: Sequence[str], lines: Sequence[Sequence[str]], *, text: Collection[str]
) -> str:
    """Write cells as a Markdown table, aligned; it ends without a newline.

    Args:
        header: Names of the columns.
        lines: The cells, line by line.
        text: Columns that are aligned to the left, as numbers are not.
    """
    cells = [header, *lines]
    # Markdown wants three characters in a rule.
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(header))]
    rule = [
        "-" * width if name in text else "-" * (width - 1) + ":"
        for name, width in zip(header, widths, strict=True)
    ]

    def padded(line: Sequence[str]) -> str:
        row = [
            cell.ljust(width) if name in text else cell.rjust(width)
            for name, cell, width in zip(header, line, widths, strict=True)
        ]
        return f"| {' | '.join(row)} |"

    return "\n".join(padded(line) for line in (cells[0], rule, *cells[1:]))


def _cells(row: Row) -> tuple[str, ...]:
    mark = row.mark
    if row.sampled:
        mark += f" ({row.sampled})"
    if row.mark == "oom" and row.needs_bytes and row.free_bytes:
        mark += f" (needs {format_bytes(row.needs_bytes)}, {format_bytes(row.free_bytes)} free)"
    decode = ""
    if row.decode_ms is not None and row.decode_p95_ms is not None:
        decode = f"{significant(row.decode_ms)} / {significant(row.decode_p95_ms)}"
    return (
        row.method,
        f"{row.length:,}",
        significant(row.prefill_s),
        "" if row.prefill_tokens_per_s is None else f"{row.prefill_tokens_per_s:,.0f}",
        decode,
        _size(row.kv_bytes),
        _size(row.peak_bytes),
        _ratio(row.prefill_ratio),
        _ratio(row.decode_ratio),
        _ratio(row.kv_ratio),
        str(row.n) if row.n else "",
        mark_text(mark),
    )


def mark_text(mark: str) -> str:
    """Write a mark for a table: a reason may hold what would end the cell."""
    return mark.replace("|", "/").replace("\n", " ")[:160]


def significant(value: float | None) -> str:
    """Write three digits, more where they stand before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _size(count: int | None) -> str:
    return "" if count is None else format_bytes(count)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _record(row: Row) -> dict[str, Any]:
    record = asdict(row)
    del record["samples"]
    return record


def csv_text(rows: Sequence[Row], provenance: Provenance) -> str:
    """Write the rows as CSV, every row with the facts that it cannot be quoted without."""
    facts = asdict(provenance)
    kept = ("version", "torch", "transformers", "device_name", "dtype", "threads", "model", "time")
    records = [{**_record(row), **{name: facts[name] for name in kept}} for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def json_value(
    rows: Sequence[Row],
    check: LogitCheck,
    provenance: Provenance,
    attentions: Sequence[Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Build the object of --json; times in seconds or, where named so, ms; sizes in bytes."""
    return {
        "provenance": asdict(provenance),
        "attentions": list(attentions),
        "check": asdict(check),
        "rows": [{**_record(row), "samples": [asdict(s) for s in row.samples]} for row in rows],
    }
