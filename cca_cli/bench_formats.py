"""The results of ``cca bench`` for programs: CSV, one JSON object, JSON objects line by line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cca_cli.bench_provenance import Provenance
    from cca_models.benchmarks import LogitCheck
    from cca_models.benchmarks_results import Row

__all__ = ["csv_text", "json_lines", "json_value"]

# What a row of CSV cannot be quoted without.
_FACTS = ("version", "torch", "transformers", "device_name", "dtype", "threads", "model", "time")


def csv_text(rows: Sequence[Row], provenance: Provenance) -> str:
    """Write the rows as CSV, every row with the facts that it cannot be quoted without."""
    facts = asdict(provenance)
    records = [{**_record(row), **{name: facts[name] for name in _FACTS}} for row in rows]
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
        "rows": [_whole(row) for row in rows],
    }


def json_lines(
    rows: Sequence[Row],
    check: LogitCheck,
    provenance: Provenance,
    attentions: Sequence[Mapping[str, Any]],
) -> Iterator[Mapping[str, Any]]:
    """Give the same part by part; ``kind`` says which: provenance, attention, check or row."""
    yield {"kind": "provenance", **asdict(provenance)}
    for one in attentions:
        yield {"kind": "attention", **one}
    yield {"kind": "check", **asdict(check)}
    for row in rows:
        yield {"kind": "row", **_whole(row)}


def _whole(row: Row) -> dict[str, Any]:
    return {**_record(row), "samples": [asdict(sample) for sample in row.samples]}


def _record(row: Row) -> dict[str, Any]:
    record = asdict(row)
    del record["samples"]
    return record
