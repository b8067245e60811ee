"""``cca bench --ops`` and ``--tune``: single operations and tiles on the GPU at hand.

All of it runs in this process, so that the figures of one table are those of one run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.bench_output import mark_text, markdown_table, significant
from cca_cli.console import Console
from cca_cli.errors import PartialFailureError, UsageError
from cca_cli.model_loading import DEFAULT_WINDOW

if TYPE_CHECKING:
    import torch

    from cca_models.benchmarks_operations import Bench, Cell, OperationRow

__all__ = ["OperationsProvenance", "bench_operations", "check_options", "operations_table"]

_REPEAT = 5
_OPERATIONS = (
    "operation", "method", "H / KV / D", "tokens", "time", "TFLOP/s", "GB/s",
    "× dense", "× flex", "share %", "error", "n", "mark",
)  # fmt: skip
_TILES = (
    "operation", "H / KV / D", "tokens", "tile", "time", "TFLOP/s", "GB/s", "share %", "error",
    "n", "mark", "in use",
)  # fmt: skip
_TEXT_COLUMNS = {"operation", "method", "tile", "mark", "in use"}


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationsProvenance:
    """Without which a figure is not worth quoting; JSON prints it as it is."""

    version: str
    torch: str
    triton: str
    cuda: str
    cudnn: str
    python: str
    device: str
    device_name: str
    dtype: str
    group_size: int
    window: int
    repeat: int
    seed: int
    time: str
    command: str

    def line(self) -> str:
        """Sum it up in one line."""
        return " · ".join(
            (
                f"cca {self.version}",
                f"torch {self.torch}",
                f"triton {self.triton}",
                f"CUDA {self.cuda}",
                f"cuDNN {self.cudnn}",
                f"{self.device_name} ({self.device})",
                self.dtype,
                f"G {self.group_size} W {self.window:,}",
                f"repeat {self.repeat}",
                f"seed {self.seed}",
                self.time,
                self.command,
            )
        )


def check_options(
    *, ops: bool, tune: bool, shape: str | None, plot: Path | None, group_size: int, window: int
) -> None:
    """Check that the options go together.

    Raises:
        UsageError: If they do not.
    """
    name = "--ops" if ops else "--tune"
    if ops and tune:
        raise UsageError("--ops and --tune exclude each other", hint="run one after the other")
    for option, given in (("--shape", shape is not None), ("--plot", plot is not None)):
        if given:
            raise UsageError(
                f"{option} and {name} exclude each other",
                hint=f"{option} is for whole models, {name} for single operations",
            )
    if window < group_size:
        raise UsageError(
            f"--window {window} is smaller than --group-size {group_size}",
            hint=f"--window {group_size} at least; {DEFAULT_WINDOW} is the default",
        )


def bench_operations(
    console: Console,
    *,
    tune: bool,
    flex: bool,
    device: str,
    dtype: str,
    repeat: int | None,
    group_size: int,
    window: int,
    seed: int,
    csv: Path | None,
) -> None:
    """Measure the operations, or with `tune` their tiles, and print them.

    Raises:
        UsageError: If another device is asked for.
        ModelError: If there is no CUDA device.
        PartialFailureError: If an operation of CCA could not be measured, or gave wrong results.
    """
    chosen = _cuda_device(device, "--tune" if tune else "--ops")
    bench = _prepare(chosen, dtype, repeat=repeat or _REPEAT, flex=flex, seed=seed)
    provenance = _describe(bench, group_size, window)
    console.note(provenance.line())
    if tune:
        from cca_models.benchmarks_tuning import all_tunings, best_first

        rows = _run(console, all_tunings(group_size=group_size, window=window), bench)
        rows = best_first(rows)
    else:
        from cca_models.benchmarks_contenders import all_cells

        cells = all_cells(bench, group_size=group_size, window=window)
        rows = _run(console, cells, bench)
    report(console, rows, provenance, tune=tune, csv=csv)


def report(
    console: Console,
    rows: Sequence[OperationRow],
    provenance: OperationsProvenance,
    *,
    tune: bool,
    csv: Path | None,
) -> None:
    """Print the rows, and let the exit code say whether those that count are there.

    Raises:
        PartialFailureError: If one is not, or is wrong.
    """
    if csv is not None:
        csv.write_text(_csv_text(rows, provenance), encoding="utf-8")
    if console.human:
        console.result(provenance.line() + "\n")
        console.result(tiles_table(rows) if tune else operations_table(rows))
    else:
        console.json(
            {"provenance": asdict(provenance), "rows": [asdict(row) for row in rows]}
        )  # fmt: skip
    # What CCA is set beside may be missing from this torch, and a tile may not fit this card.
    own = [row for row in rows if row.in_use or (row.method.startswith("cca") and not tune)]
    bad = [row for row in own if row.mark != "measured"]
    bad += [row for row in rows if row.method == "inputs"]
    if bad:
        raise PartialFailureError(
            f"{len(bad)} of {len(rows)} rows failed, first {_name(bad[0])}: "
            f"{mark_text(bad[0].mark).removeprefix('failed: ')}",
            hint=f"cca bench {'--tune' if tune else '--ops'} --json keeps the whole reason",
        )


def operations_table(rows: Sequence[OperationRow]) -> str:
    """Write the rows of --ops as a Markdown table; it ends without a newline."""
    lines = [
        (
            row.operation, row.method, _shape(row), _tokens(row), _time(row.ms),
            *_rates(row), _ratio(row.over_dense), _ratio(row.over_flex), *_ends(row),
        )
        for row in rows
    ]  # fmt: skip
    return markdown_table(_OPERATIONS, lines, text=_TEXT_COLUMNS)


def tiles_table(rows: Sequence[OperationRow]) -> str:
    """Write the rows of --tune as a Markdown table; it ends without a newline."""
    lines = [
        (
            row.operation, _shape(row), _tokens(row), row.method, _time(row.ms), *_rates(row),
            *_ends(row), "in use" if row.in_use else "",
        )
        for row in rows
    ]  # fmt: skip
    return markdown_table(_TILES, lines, text=_TEXT_COLUMNS)


def _cuda_device(name: str, option: str) -> torch.device:
    # Seconds; an error in the options must not wait for it.
    import torch

    from cca_models.errors import ModelError
    from cca_models.weights import choose_device

    hint = f"cca bench without {option} measures whole models on any device"
    if name != "auto" and not name.startswith("cuda"):
        raise UsageError(f"{option} needs a CUDA device, not {name}", hint=hint)
    if not torch.cuda.is_available():
        raise ModelError(f"{option} needs a CUDA device: torch sees none", hint=hint)
    device = choose_device(name)
    if device.index is not None:
        # Events, graphs and the kernels that are launched directly belong to this card.
        torch.cuda.set_device(device)
    return device


def _prepare(device: torch.device, dtype: str, *, repeat: int, flex: bool, seed: int) -> Bench:
    import torch

    from cca_models.benchmarks_operations import Bench
    from cca_models.benchmarks_timing import CudaTimer
    from cca_models.weights import choose_dtype

    cache = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20))
    return Bench(
        device=device, dtype=choose_dtype(dtype, device), timer=CudaTimer(device), repeat=repeat,
        flex=flex, seed=seed, rotate_bytes=6 * cache,
    )  # fmt: skip


def _run(console: Console, cells: Sequence[Cell], bench: Bench) -> list[OperationRow]:
    from time import perf_counter

    from cca_models.benchmarks_operations import run_cells

    begun = perf_counter()

    def finished(row: OperationRow) -> None:
        # At once: what is measured must not be lost with what comes after it.
        rates = ", ".join(
            f"{rate} {unit}"
            for rate, unit in zip(_rates(row), ("TFLOP/s", "GB/s"), strict=True)
            if rate
        )
        ratios = "".join(
            f", {ratio:.2f}x {name}"
            for ratio, name in ((row.over_dense, "dense"), (row.over_flex, "flex"))
            if ratio
        )
        figures = f"{_time(row.ms)}, {rates}{ratios}, " if row.ms else ""
        error = f", error {row.error:.1e}" if row.error is not None else ""
        console.note(
            f"[{perf_counter() - begun:.0f} s] {_name(row)}: {figures}{row.mark}{error}"
        )  # fmt: skip

    return run_cells(cells, bench, finished=finished)


def _describe(bench: Bench, group_size: int, window: int) -> OperationsProvenance:
    """Note down what the figures cannot be quoted without."""
    import platform
    import shlex
    import sys
    from datetime import UTC, datetime
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from cca_cli import __version__

    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    cuda = bench.device.type == "cuda"
    return OperationsProvenance(
        version=__version__,
        torch=str(torch.__version__),
        triton=triton,
        cuda=torch.version.cuda or "none",
        cudnn=str(torch.backends.cudnn.version() or "none"),
        python=platform.python_version(),
        device=str(bench.device),
        device_name=torch.cuda.get_device_name(bench.device) if cuda else platform.machine(),
        dtype=str(bench.dtype).removeprefix("torch."),
        group_size=group_size,
        window=window,
        repeat=bench.repeat,
        seed=bench.seed,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["cca", *sys.argv[1:]]),
    )


def _csv_text(rows: Sequence[OperationRow], provenance: OperationsProvenance) -> str:
    """Write the rows as CSV, every row with the facts that it cannot be quoted without."""
    facts = asdict(provenance)
    kept = ("version", "torch", "triton", "device_name", "dtype", "group_size", "window", "time")
    records: list[dict[str, Any]] = []
    for row in rows:
        record = asdict(row)
        del record["samples_ms"]
        records.append(record | {name: facts[name] for name in kept})
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _name(row: OperationRow) -> str:
    shape = f" {_shape(row)} at {_tokens(row)}" if row.heads else ""
    return f"{row.operation}{shape}, {row.method}"


def _shape(row: OperationRow) -> str:
    return f"{row.heads} / {row.kv_heads} / {row.head_dim}" if row.heads else ""


def _tokens(row: OperationRow) -> str:
    if row.length is None:
        return ""
    return f"{row.length:,}" + (f" ({row.keys:,} keys)" if row.keys else "")


def _time(ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{significant(ms)} ms" if ms >= 1 else f"{significant(1000 * ms)} us"


def _rates(row: OperationRow) -> tuple[str, str]:
    return significant(row.tflops), significant(row.gb_per_s)


def _ends(row: OperationRow) -> tuple[str, str, str, str]:
    share = "" if row.share is None else f"{100 * row.share:.1f}"
    error = "" if row.error is None else f"{row.error:.1e}"
    return share, error, str(row.n) if row.n else "", mark_text(row.mark)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
