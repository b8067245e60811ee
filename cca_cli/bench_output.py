"""The results of ``cca bench`` as tables and lines, for people."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cca_cli.formatting import format_bytes

if TYPE_CHECKING:
    from cca_models.benchmarks import Case, LogitCheck
    from cca_models.benchmarks_results import Measurement, Row

__all__ = [
    "attention_table",
    "check_line",
    "finished_line",
    "mark_text",
    "markdown_table",
    "plan_line",
    "significant",
    "table",
]

_TEXT_COLUMNS = {"method", "mark"}


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
    """Write the rows as a Markdown table, aligned; it ends without a newline.

    Columns of what nothing was measured of are left out: reserved memory, busy time and joules
    off a GPU, the spread of single readings.
    """
    shown = [(name, cell) for name, cell, wanted in _COLUMNS if any(map(wanted, rows))]
    header = [name for name, _ in shown]
    lines = [[cell(row) for _, cell in shown] for row in rows]
    text = markdown_table(header, lines, text=_TEXT_COLUMNS)
    captured = [row.method for row in rows if "not captured" in row.plan]
    if captured:
        text += "\n\ncca writes several rows without the captured step, which is for one row"
    return text


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


def _mark(row: Row) -> str:
    mark = row.mark
    if row.sampled:
        mark += f" ({row.sampled})"
    if row.mark == "oom" and row.needs_bytes and row.free_bytes:
        mark += f" (needs {format_bytes(row.needs_bytes)}, {format_bytes(row.free_bytes)} free)"
    return mark_text(mark)


def _decode(row: Row) -> str:
    if row.decode_ms is None or row.decode_p95_ms is None:
        return ""
    return f"{significant(row.decode_ms)} / {significant(row.decode_p95_ms)}"


def _spread(row: Row) -> str:
    if row.n < 2:
        return ""
    return f"{significant(row.prefill_min_s)} – {significant(row.prefill_max_s)}"


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


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _always(row: Row) -> bool:
    return True


# Name, cell, and for which rows the column is worth its place.
_COLUMNS: tuple[tuple[str, Callable[[Row], str], Callable[[Row], bool]], ...] = (
    ("method", lambda row: row.method, _always),
    ("length", lambda row: f"{row.length:,}", _always),
    ("rows", lambda row: str(row.batch), lambda row: row.batch > 1),
    ("prefill s", lambda row: significant(row.prefill_s), _always),
    ("min – max", _spread, lambda row: row.n > 1),
    ("prefill tok/s", lambda row: _rate(row.prefill_tokens_per_s), _always),
    ("decode ms (p50 / p95)", _decode, _always),
    (
        "decode GPU ms",
        lambda row: significant(row.decode_busy_ms),
        lambda row: row.decode_busy_ms is not None,
    ),
    ("decode tok/s", lambda row: _rate(row.decode_tokens_per_s), _always),
    ("KV", lambda row: _size(row.kv_bytes), _always),
    ("peak", lambda row: _size(row.peak_bytes), _always),
    ("reserved", lambda row: _size(row.reserved_bytes), lambda row: bool(row.reserved_bytes)),
    ("prefill J", lambda row: significant(row.prefill_j), lambda row: row.prefill_j is not None),
    ("decode J", lambda row: significant(row.decode_j), lambda row: row.decode_j is not None),
    ("× prefill", lambda row: _ratio(row.prefill_ratio), _always),
    ("× decode", lambda row: _ratio(row.decode_ratio), _always),
    ("× KV", lambda row: _ratio(row.kv_ratio), _always),
    ("n", lambda row: str(row.n) if row.n else "", _always),
    ("mark", _mark, _always),
)
